"""Save checkpoints at one place (ZeRO stage and number of ranks), and load them at others: functions for the ranks."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.engine.engine import PruningEngine
from dsprune.ranks.collectives import Comm
from dsprune.testing.engines import BATCH, ds_config, make_recipe, pruning_engine, scaled
from dsprune.testing.tiny import batch
from dsprune.testing.whole import whole_masks, whole_parameters

__all__ = ["Place", "load_all", "save"]

WHOLE = "whole.pt"
"""The file with the whole tensors of the saving engine, next to its checkpoint."""


class Place(NamedTuple):
    """The place of an engine.

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
    """Train, and save a checkpoint and the whole tensors that it should hold. Collective."""
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
    """Load checkpoints in order, and compare every number. Collective.

    Returns:
        For each checkpoint the difference; None if there is none.
    """
    with _engine(place, seed=len(folders)) as engine:
        return [_difference(engine, folder, _saved_step(number)) for number, folder in enumerate(folders)]


def _difference(engine: PruningEngine, folder: Path, step: int) -> str | None:
    engine.load_checkpoint(folder, tag="saved")
    expected, found = torch.load(folder / WHOLE, weights_only=True), _whole(engine)
    assert engine.pruner is not None
    if engine.applied_steps != step:
        return f"step {engine.applied_steps} instead of {step}"
    if findings := engine.pruner.state.audit():
        return f"audit: {findings[0]}"
    return next((name for name in expected if not torch.equal(found[name], expected[name])), None)


def _whole(engine: PruningEngine) -> dict[str, Tensor]:
    """Return masks, master weights and moments by name."""
    assert engine.pruner is not None
    masks = {f"mask {i}": mask for i, mask in enumerate(whole_masks(engine.pruner.state))}
    views = whole_parameters(engine)
    return masks | {f"{what} of {name}": values for name in views for what, values in views[name].items()}


def _saved_step(number: int) -> int:
    return 4 + number % 5


def _engine(place: Place, seed: int) -> AbstractContextManager[PruningEngine]:
    config = ds_config(place.stage, place.precision)
    if place.offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        del config["optimizer"]["params"]["torch_adam"]
    return pruning_engine(config, scaled(make_recipe(place.precision), **{"blocks.1.*": 0.25}), seed)
