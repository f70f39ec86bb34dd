"""Checkpoints saved at one place, a ZeRO stage on a number of ranks, and loaded at others: what the ranks do."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.testing.tiny import TinyModel, batch
from dsprune.testing.whole import whole_masks, whole_parameters

__all__ = ["Place", "load_all", "save"]

BATCH, STEPS = 12, 12

WHOLE = "whole.pt"
"""The whole tensors of the engine that saved, beside its checkpoint."""


class Place(NamedTuple):
    """Where an engine runs.

    Attributes:
        stage: its ZeRO stage.
        world: its number of ranks.
        offload: whether its optimizer runs on the CPU with DeepSpeed's own Adam.
        precision: `fp32` or `bf16`.
    """

    stage: int
    world: int
    offload: bool = False
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.stage}{'c' if self.offload else ''}x{self.world}"


def save(comm: Comm, place: Place, number: int, folder: Path) -> None:
    """Train, and save a checkpoint and the whole tensors that it should hold. Collective.

    Args:
        comm: the ranks.
        place: where this is.
        number: model and step differ from number to number.
        folder: for the checkpoint.
    """
    with _engine(place, seed=number) as engine:
        for step in range(_saved_step(number)):
            share = batch(step, BATCH, comm.rank, comm.size)
            engine.backward(engine(**share).loss)
            engine.step()
        engine.save_checkpoint(folder, tag="saved")
        if comm.rank == 0:
            torch.save(found := _whole(engine), folder / WHOLE)
        else:
            found = _whole(engine)
        assert any((values == 0).any() for values in found.values())


def load_all(comm: Comm, place: Place, folders: Sequence[Path]) -> list[str | None]:
    """Load checkpoints one after the other, and compare every number. Collective.

    Returns:
        What differs, of each; None if nothing does.
    """
    with _engine(place, seed=len(folders)) as engine:
        return [_difference(engine, folder, _saved_step(number)) for number, folder in enumerate(folders)]


def _difference(engine: dsprune.PruningEngine, folder: Path, step: int) -> str | None:
    engine.load_checkpoint(folder, tag="saved")
    expected, found = torch.load(folder / WHOLE, weights_only=True), _whole(engine)
    assert engine.pruner is not None
    if engine.applied_steps != step:
        return f"step {engine.applied_steps} instead of {step}"
    if findings := engine.pruner.state.audit():
        return f"audit: {findings[0]}"
    return next((name for name in expected if not torch.equal(found[name], expected[name])), None)


def _whole(engine: dsprune.PruningEngine) -> dict[str, Tensor]:
    """Return masks, master weights and moments by name."""
    assert engine.pruner is not None
    masks = {f"mask {i}": mask for i, mask in enumerate(whole_masks(engine.pruner.state))}
    views = whole_parameters(engine)
    return masks | {f"{what} of {name}": values for name in views for what, values in views[name].items()}


def _saved_step(number: int) -> int:
    return 4 + number % 5


@contextmanager
def _engine(place: Place, seed: int) -> Iterator[dsprune.PruningEngine]:
    os.environ.update(LOCAL_RANK=str(dist.get_rank()))
    engine, *_ = dsprune.initialize(model=TinyModel(seed), config=_ds_config(place), recipe=_recipe(place))
    try:
        yield engine
    finally:
        engine.destroy()
        del engine
        gc.collect()


def _ds_config(place: Place) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": place.stage}
    params: dict[str, Any] = {"lr": "auto", "weight_decay": "auto"}
    if place.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    else:
        params["torch_adam"] = True
    return {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": params},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
    }


def _recipe(place: Place) -> Recipe:
    pruning = {"sparsity": 0.9, "first": 0.5, "start": 0, "end": 9, "updates": 4}
    return Recipe.model_validate(
        {
            "name": "moves",
            "budget": {"steps": STEPS, "batch": BATCH},
            "pruning": pruning,
            "learning_rate": {"peak": 0.02, "warmup": 0, "scale": {"blocks.1.*": 0.25}},
            "precision": place.precision,
        }
    )
