"""What the ranks do in the tests of other topologies: save at one, resume at another."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.checkpoint.deepspeed_files import CheckpointFiles
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.zero.stages import open_layout
from tests.engine import scenarios
from tests.engine.scenarios import STEPS, pruner_of, pruning_engine, train_step, whole_masks

SAVED = 5
"""The step at which all checkpoints are written: after the second mask update of four."""

Outcome = tuple[list[Tensor], list[Tensor]]


def whole_parameters(engine: dsprune.PruningEngine) -> dict[str, dict[str, Tensor]]:
    """Master weights and moments of every parameter, prunable or not."""
    tensors = [
        PrunableTensor(name, tuple(getattr(parameter, "ds_shape", parameter.shape)))
        for name, parameter in engine.module.named_parameters()
    ]
    layout = open_layout(engine, tensors)
    holder: Any = type("Holder", (), {"layout": layout})
    found = {"master weights": scenarios.gather(holder, layout.weight)}
    for name in ("exp_avg", "exp_avg_sq"):
        found[name] = scenarios.gather(holder, lambda i, name=name: layout.states(i)[name])
    return {tensor.name: {what: found[what][i] for what in found} for i, tensor in enumerate(tensors)}


def outcome(engine: dsprune.PruningEngine) -> Outcome:
    """Whole masks and weights, of what is pruned."""
    pruner = pruner_of(engine)
    return whole_masks(pruner), scenarios.gather(pruner, pruner.layout.weight)


def train_and_save(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> Outcome:
    """Save at step `SAVED`, and train on to the end without a stop."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            if step == SAVED:
                engine.save_checkpoint(folder, tag="saved", client_state={"note": "hello"})
            train_step(engine, step)
        return outcome(engine)


def reshard(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> Outcome:
    """Resume from what another topology saved, and find every number as it was written."""
    with pruning_engine(config, recipe, seed=1) as engine:
        _, client = engine.load_checkpoint(folder)
        assert engine.applied_steps == SAVED
        assert client["note"] == "hello"
        peak = 0.02 * engine.timetable.lr_multiplier(SAVED)
        assert set(engine.get_lr()) == {peak, 0.25 * peak}
        files = CheckpointFiles(Path(folder) / "saved")
        for name, views in whole_parameters(engine).items():
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
