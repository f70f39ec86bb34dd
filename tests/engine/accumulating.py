"""What the ranks do in the tests of methods that keep accumulators or let weights grow back."""

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.masks.manifest import MANIFEST
from dsprune.methods.method import RegrowingMethod, find_method
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.selection.groups import update_groups
from dsprune.testing.engines import STEPS, pruning_engine
from dsprune.testing.methods import regrow_dense, select_dense
from dsprune.testing.whole import gather, whole_masks
from dsprune.utils.randomness import hash_text, mix64
from tests.engine import scenarios
from tests.engine.scenarios import every_view, pruner_of, train_step

SAVED = 5
"""A step between two mask updates."""

Tensors = list[Tensor]

ADDED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "movement": lambda weight, gradient: -(weight * gradient),
    "snip": lambda weight, gradient: (weight * gradient).abs(),
    "empirical-fisher": lambda weight, gradient: gradient * gradient,
}
"""What a step adds to the sum of each method."""


def whole(pruner: Any, local: Callable[[int], Tensor | None]) -> Tensors:
    """Whole float32 tensors, with zeros where a rank has none."""
    weight = pruner.layout.weight

    def values(index: int) -> Tensor:
        found = local(index)
        return torch.zeros_like(weight(index)) if found is None else found

    return [tensor.float() for tensor in gather(pruner.layout, values)]


def accumulators(engine: dsprune.PruningEngine) -> dict[str, Tensors]:
    """Whole accumulators by name."""
    pruner = pruner_of(engine)
    kept = pruner.accumulators
    return {
        each.name: whole(pruner, lambda index, name=each.name: kept.values[index][name])
        for each in kept.declared
    }


class Oracle:
    """One process that sees the whole weights and unmasked gradients of every step, and selects by a sort."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.pruning is not None
        self.pruning = recipe.pruning
        self.sums: Tensors | None = None
        self.seed = recipe.seed
        self.weights: Tensors = []
        self.gradients: Tensors = []

    def see(self, engine: dsprune.PruningEngine) -> None:
        pruner = pruner_of(engine)
        self.weights, self.gradients = (
            whole(pruner, pruner.layout.weight),
            whole(pruner, pruner.layout.gradient),
        )

    def masks_after(self, engine: dsprune.PruningEngine, step: int, kept: Tensors) -> Tensors:
        """The masks after the step that was seen; `kept` are those before it."""
        pruning, timetable = self.pruning, engine.timetable
        update = timetable.next_update(step)
        counts = update is not None and (pruning.window is None or update.step - step < pruning.window)
        if pruning.method in ADDED and counts:
            pairs = zip(self.weights, self.gradients, strict=True)
            added = [ADDED[pruning.method](weight, gradient) for weight, gradient in pairs]
            self.sums = added if self.sums is None else [a + b for a, b in zip(self.sums, added, strict=True)]
        if update is None or update.step != step:
            return kept
        tensors = [shard.tensor for shard in pruner_of(engine).layout.shards]
        groups = update_groups(tensors, pruning, timetable.progress(update))
        if issubclass(find_method(pruning.method), RegrowingMethod):
            assert [timetable.updates[0].step, timetable.updates[-1].step] == [0, 9]
            fraction = 0.15 * (1 + math.cos(math.pi * step / 9))
            growth = self._growth([tensor.name for tensor in tensors], step)
            return regrow_dense([w.abs() for w in self.weights], growth, kept, groups, fraction)
        masks = select_dense(self._scores(), kept, groups)
        if pruning.method != "movement":
            self.sums = None
        return masks

    def _scores(self) -> Tensors:
        if self.pruning.method != "empirical-fisher":
            return self.sums or []
        pairs = zip(self.weights, self.sums or [], strict=True)
        return [(weight * squares.sqrt()).abs() for weight, squares in pairs]

    def _growth(self, names: list[str], step: int) -> Tensors:
        if self.pruning.method == "rigl":
            return [gradient.abs() for gradient in self.gradients]
        salts = [hash_text(f"{self.seed} {step} {name}") for name in names]
        indices = [torch.arange(weight.numel()) for weight in self.weights]
        return [mix64(index + salt) & 0xFFFFFF for index, salt in zip(indices, salts, strict=True)]


def check_run(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, list[int]]:
    """Train, and compare masks with those of the oracle after every step.

    Returns:
        Bytes of accumulators on this rank, and the number of weights that grew back at each mask update.
    """
    oracle, regrown = Oracle(recipe), []
    with pruning_engine(config, recipe) as engine:
        pruner = pruner_of(engine)
        nbytes = pruner.accumulators.nbytes
        for step in range(STEPS):
            old, moments = whole_masks(pruner), every_view(pruner)
            train_step(engine, step, lambda: oracle.see(engine))
            new = whole_masks(pruner)
            expected = oracle.masks_after(engine, step, old)
            assert all(map(torch.equal, new, expected)), f"step {step}: not the dense selection"
            assert pruner.audit() == []
            grown = [now & ~before for now, before in zip(new, old, strict=True)]
            for what, view in moments.items():
                for values, mask in zip(view, grown, strict=True):
                    assert not values[mask].any(), f"step {step}: a weight grew back with {what}"
            update = engine.timetable.update_at(step)
            if update is not None:
                groups = update_groups(
                    [s.tensor for s in pruner.layout.shards], recipe.pruning, update.sparsity / 0.9
                )
                assert sum(int((~mask).sum()) for mask in new) == sum(group.num_pruned for group in groups)
                assert engine.pruner.last_update.num_regrown in (None, sum(int(mask.sum()) for mask in grown))
                regrown.append(sum(int(mask.sum()) for mask in grown))
        assert pruner.accumulators.nbytes == 0, "nothing is kept after the last mask update"
    return nbytes, regrown


def check_skipped(comm: Comm, config: dict[str, Any], recipe: Recipe) -> None:
    """A step that DeepSpeed skips adds nothing, also at a mask update."""
    with pruning_engine(config, recipe) as engine:
        train_step(engine, 0, scale=torch.inf)
        assert (engine.applied_steps, engine.skipped_steps) == (0, 1)
        assert not any(value.any() for values in accumulators(engine).values() for value in values)
        train_step(engine, 0)
        assert engine.applied_steps == 1
        assert any(value.any() for values in accumulators(engine).values() for value in values)


def first_sums(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, Tensors]:
    """Steps that were skipped until one was applied, and what is accumulated then."""
    with pruning_engine(config, recipe) as engine:
        while engine.applied_steps == 0:
            assert not any(value.any() for values in accumulators(engine).values() for value in values)
            train_step(engine, 0)
        [sums] = accumulators(engine).values()
        return engine.skipped_steps, sums


def save(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> dict[str, Tensors]:
    """Save in mid-accumulation."""
    with pruning_engine(config, recipe) as engine:
        for step in range(SAVED):
            train_step(engine, step)
        engine.save_checkpoint(folder, tag="saved")
        return accumulators(engine)


def load(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> dict[str, Tensors]:
    """Load, train on, and return what was loaded."""
    with pruning_engine(config, recipe, seed=1) as engine:
        engine.load_checkpoint(folder)
        found = accumulators(engine)
        for step in range(SAVED, STEPS):
            train_step(engine, step)
        assert pruner_of(engine).audit() == []
        return found


def error_of_loading(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """What an engine of another method says of the checkpoint."""
    with pruning_engine(config, recipe, seed=1) as engine:
        try:
            engine.load_checkpoint(folder)
        except dsprune.UserError as error:
            return str(error)
    return "no error"


def load_without_masks(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """Make masks of the zeros of a checkpoint that has lost its masks, and return what is said."""
    if dist.get_rank() == 0:
        for name in (MANIFEST, "checkpoint.json"):
            (Path(folder) / "saved" / name).unlink()
    dist.barrier()
    said = io.StringIO()
    with pruning_engine(config, recipe, seed=1) as engine, contextlib.redirect_stdout(said):
        engine.load_checkpoint(folder, masks_from="zeros")
        assert not any(value.any() for values in accumulators(engine).values() for value in values)
    return said.getvalue()


check_resume = scenarios.check_resume
