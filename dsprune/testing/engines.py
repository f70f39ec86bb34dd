"""Engines that prune a tiny model: their ds_config, their recipe, and the engine as a context manager."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn

import dsprune
from dsprune.recipe import Recipe
from dsprune.testing.tiny import TinyModel

__all__ = ["BATCH", "STEPS", "ds_config", "fp16_allowed", "make_recipe", "pruning_engine", "scaled"]

BATCH, STEPS = 12, 8

OVERFLOWING = {"initial_scale_power": 22, "loss_scale_window": 2, "hysteresis": 1}
"""Dynamic loss scaling of fp16 that overflows at the start, and repeatedly later."""


def ds_config(stage: int, precision: str = "fp32", **changes: Any) -> dict[str, Any]:
    """Return a config of AdamW at a ZeRO stage, with some values changed."""
    config: dict[str, Any] = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": "auto", "weight_decay": "auto"}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    if precision != "fp32":
        config[precision] = {"enabled": "auto"} | (OVERFLOWING if precision == "fp16" else {})
    return config | changes


def make_recipe(precision: str = "fp32", **pruning: Any) -> Recipe:
    """Return a recipe of `STEPS` steps to a sparsity of 0.9 in four mask updates; `pruning` changes its section."""
    schedule = {"sparsity": 0.9, "method": "magnitude", "first": 0.5, "start": 0, "end": 6, "updates": 4}
    return Recipe.model_validate(
        {
            "name": "test",
            "budget": {"steps": STEPS, "batch": BATCH},
            "pruning": schedule | pruning,
            "learning_rate": {"peak": 0.02, "warmup": 0},
            "gradient_clipping": 0.1,
            "precision": precision,
        }
    )


def scaled(recipe: Recipe, **scale: float) -> Recipe:
    """Return the recipe with factors on learning rates; without any, the embedding's is an eighth."""
    rate = recipe.learning_rate.model_copy(update={"scale": scale or {"embed.*": 0.125}})
    return recipe.model_copy(update={"learning_rate": rate})


@contextmanager
def fp16_allowed() -> Iterator[None]:
    """Let DeepSpeed train in fp16 on any accelerator. It refuses a CPU, although its code works there."""
    accelerator = get_accelerator()
    dtypes = [*accelerator.supported_dtypes(), torch.half]
    with mock.patch.multiple(accelerator, is_fp16_supported=lambda: True, supported_dtypes=lambda: dtypes):
        yield


@contextmanager
def pruning_engine(
    config: dict[str, Any], recipe: Recipe, seed: int = 0, model: Callable[[int], nn.Module] = TinyModel
) -> Iterator[dsprune.PruningEngine]:
    """Make an engine on the ranks of the default group. Collective: every rank must call this."""
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    with fp16_allowed():
        engine, *_ = dsprune.initialize(model=model(seed), config=config, recipe=recipe)
        try:
            yield engine
        finally:
            engine.destroy()
            del engine
            gc.collect()
