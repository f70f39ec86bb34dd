"""Functions for the ranks in the tests of other topologies: save at one, resume at another."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.checkpoint.deepspeed_files import CheckpointFiles
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.testing.engines import STEPS, pruning_engine
from dsprune.testing.whole import gather, whole_masks, whole_parameters
from tests.engine.scenarios import pruner_of, train_step

SAVED = 5
"""The step at which all checkpoints are written: after the second mask update of four."""

Outcome = tuple[list[Tensor], list[Tensor]]


def outcome(engine: dsprune.PruningEngine) -> Outcome:
    """The whole masks and weights of the pruned tensors."""
    pruner = pruner_of(engine)
    return whole_masks(pruner), gather(pruner.layout, pruner.layout.weight)


def train_and_save(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> Outcome:
    """Save at step `SAVED`, and train to the end without interruption."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            if step == SAVED:
                engine.save_checkpoint(folder, tag="saved", client_state={"note": "hello"})
            train_step(engine, step)
        return outcome(engine)


def reshard(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> Outcome:
    """Resume from a checkpoint of another topology, and compare every number."""
    with pruning_engine(config, recipe, seed=1) as engine:
        _, client = engine.load_checkpoint(folder)
        assert engine.applied_steps == SAVED
        assert client["note"] == "hello"
        peak = 0.02 * engine.timetable.lr_multiplier(SAVED)
        assert set(engine.get_lr()) == {peak, 0.25 * peak}
        files = CheckpointFiles(Path(folder) / "saved")
        for name, views in whole_parameters(engine).items():
            assert files.views(name).keys() == views.keys()
            for what, expected in files.views(name).items():
                assert torch.equal(views[what], expected.double()), f"{what} of {name}"
        pruner = pruner_of(engine)
        masks = whole_masks(pruner)
        for tensor, kept in zip((shard.tensor for shard in pruner.layout.shards), masks, strict=True):
            assert torch.equal(files.views(tensor.name)["master weights"] != 0, kept), tensor.name
        for step in range(SAVED, STEPS):
            train_step(engine, step)
            assert pruner.audit() == []
        return outcome(engine)


def error_of_resharding(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """The error of an engine with a frozen weight, which cannot reshard a checkpoint."""
    with pruning_engine(config, recipe) as engine:
        next(engine.module.parameters()).requires_grad_(False)
        try:
            engine.load_checkpoint(folder)
        except dsprune.UserError as error:
            return str(error)
    dist.barrier()
    return "no error"
