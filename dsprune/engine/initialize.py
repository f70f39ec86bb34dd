"""`dsprune.initialize`: `deepspeed.initialize` with a recipe."""

import functools
import math
from collections.abc import Sized
from typing import Any

import deepspeed
from torch import nn

from dsprune.engine.engine import PruningEngine
from dsprune.engine.learning_rate import ScaledLR
from dsprune.model.parameter_groups import parameter_groups
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import build_timetable
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.launch import init_distributed
from dsprune.zero.parameters import full_shape

__all__ = ["initialize"]


def initialize(
    *,
    model: nn.Module,
    config: dict[str, Any] | str,
    recipe: Recipe | str,
    training_data: Sized | None = None,
    steps_per_epoch: int | None = None,
    **kwargs: Any,
) -> tuple[PruningEngine, Any, Any, Any]:
    """Initialize a DeepSpeed engine that prunes. Collective: every rank must call this.

    Args:
        model: as for DeepSpeed. Without `model_parameters` and `optimizer`, biases and norms are optimized
            without weight decay.
        config: a ds_config, the path of one, or the name of a shipped one; each "auto" is filled from the recipe.
        recipe: a recipe, or the path or name of one.
        training_data: as for DeepSpeed. The recipe's epochs are counted on it.
        steps_per_epoch: optimizer steps an epoch, for a recipe that counts in epochs without `training_data`.
        **kwargs: passed to `deepspeed.initialize`.

    Returns:
        Engine, optimizer, data loader and scheduler, as `deepspeed.initialize` returns them.

    Raises:
        UserError: recipe and ds_config disagree, dsprune cannot prune under a setting, or a stale build lock would
            make DeepSpeed wait forever.
    """
    init_distributed()
    world_size = deepspeed.comm.get_world_size()
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    config = resolve_ds_config(
        load_ds_config(config) if isinstance(config, str) else config, recipe, world_size
    )
    if training_data is not None:
        steps_per_epoch = _steps_per_epoch(len(training_data), config, world_size)
    timetable = build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, steps_per_epoch)
    if kwargs.get("optimizer") is None:
        rate = config["optimizer"].get("params", {}).get("lr")
        kwargs.setdefault(
            "model_parameters", parameter_groups(model, rate, recipe.learning_rate.scale, full_shape)
        )
    engine, optimizer, loader, scheduler = deepspeed.initialize(
        model=model,
        config=config,
        training_data=training_data,
        lr_scheduler=functools.partial(ScaledLR, timetable=timetable),
        **kwargs,
    )
    return PruningEngine(engine, recipe, timetable=timetable), optimizer, loader, scheduler


def _steps_per_epoch(num_examples: int, config: dict[str, Any], world_size: int) -> int:
    """Return the complete optimizer steps in one pass of DeepSpeed's own loader, which pads the last micro-batches."""
    examples_per_rank = math.ceil(num_examples / world_size)
    micro_batches = math.ceil(examples_per_rank / config["train_micro_batch_size_per_gpu"])
    return micro_batches // config["gradient_accumulation_steps"]
