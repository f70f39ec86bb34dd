"""What the ranks do in the engine tests; each function runs on every rank of a pool."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.engine.zero import ZeroLayout
from dsprune.pure.masks.bits import unpack
from dsprune.pure.recipe import Recipe
from tests.engine.model import TinyModel, batch

BATCH = 12  # divisible by 1, 2, 3 and 4 ranks, with accumulation 1 and, for 1 to 3 ranks, 2


def ds_config(stage: int, precision: str = "fp32", **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_batch_size": BATCH,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": "auto", "weight_decay": "auto"}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    if precision != "fp32":
        config[precision] = {"enabled": True}
    return config | changes


def recipe(precision: str = "fp32", **pruning: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "budget": {"steps": 12, "batch": BATCH},
            "pruning": {"sparsity": 0.9, "start": 1, "end": 9, "events": 3} | pruning,
            "learning_rate": {"peak": 0.05},
            "gradient_clipping": 0.1,
            "precision": precision,
        }
    )


@contextmanager
def pruning_engine(config: dict[str, Any], recipe: Recipe, seed: int = 0) -> Iterator[dsprune.PruningEngine]:
    engine, *_ = dsprune.initialize(model=TinyModel(seed), config=config, recipe=recipe)
    try:
        yield engine
    finally:
        engine.deepspeed.destroy()
        del engine
        gc.collect()


def train_step(engine: dsprune.PruningEngine, step: int) -> None:
    whole = batch(step, BATCH, dist.get_rank(), dist.get_world_size())
    accumulation = engine.gradient_accumulation_steps()
    for part in range(accumulation):
        micro = {name: value[part::accumulation] for name, value in whole.items()}
        loss = engine(**micro).loss
        engine.backward(loss)
        engine.step()


def gather(layout: ZeroLayout, local: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """Whole tensors out of every rank's slices: `local(i)` is this rank's slice of tensor i."""
    pieces = [
        (s.tensor.name, s.start, local(i).float().clone()) for i, s in enumerate(layout.shards) if s.numel
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, pieces)
    whole = {s.tensor.name: torch.full((s.tensor.numel,), torch.nan) for s in layout.shards}
    for name, start, piece in (piece for pieces in everyone for piece in pieces):
        whole[name][start : start + piece.numel()] = piece
    assert not any(tensor.isnan().any() for tensor in whole.values()), "the slices leave holes"
    return whole


def gather_masks(engine: dsprune.PruningEngine) -> dict[str, Tensor]:
    pruner = engine.pruner
    assert pruner is not None
    rows = gather(
        pruner.layout, lambda i: unpack(pruner.masks.bits[i], pruner.layout.shards[i].numel).float()
    )
    return {name: row.bool() for name, row in rows.items()}
