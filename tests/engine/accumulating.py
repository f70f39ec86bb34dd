"""What the ranks do in the tests of methods that keep accumulators or let weights grow back."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import dsprune
from dsprune.masks.manifest import MANIFEST
from dsprune.masks.shared_blocks import num_shared
from dsprune.methods.method import Accumulator, RegrowingMethod, find_method
from dsprune.methods.obert import OBert
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.selection.compensate import block_bytes
from dsprune.selection.groups import Group, update_groups
from dsprune.selection.traffic import update_bytes
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
    """Whole accumulators by name; each number that is kept of a weight is a tensor."""
    pruner = pruner_of(engine)
    kept = pruner.accumulators

    def numbers(each: Accumulator, column: int) -> Callable[[int], Tensor]:
        return lambda index: kept.values[index][each.name].view(-1, each.width)[:, column]

    return {
        each.name: [tensor for column in range(each.width) for tensor in whole(pruner, numbers(each, column))]
        for each in kept.declared
    }


class Oracle:
    """One process that sees the whole weights and unmasked gradients of every step, and selects by a sort."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.pruning is not None
        self.pruning = recipe.pruning
        self.sums: Tensors | None = None
        self.seed = recipe.seed
        self.seen: list[Tensors] = []
        self.moved: Tensors = []
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
        first, last = timetable.updates[0].step, timetable.updates[-1].step
        if pruning.first_method is not None and step <= first:
            pruning = pruning.model_copy(update={"method": pruning.first_method})
        counts = update is not None and (pruning.window is None or update.step - step < pruning.window)
        if pruning.method in ADDED and counts:
            pairs = zip(self.weights, self.gradients, strict=True)
            added = [ADDED[pruning.method](weight, gradient) for weight, gradient in pairs]
            self.sums = added if self.sums is None else [a + b for a, b in zip(self.sums, added, strict=True)]
        if pruning.method == "obert" and counts:
            self.seen.append(self.gradients)
        self.moved = []
        if update is None or update.step != step:
            return kept
        tensors = [shard.tensor for shard in pruner_of(engine).layout.shards]
        groups = update_groups(tensors, pruning, timetable.progress(update))
        if update.sparsity == 0:
            return [torch.ones_like(mask) for mask in kept]
        if issubclass(find_method(pruning.method), RegrowingMethod):
            fraction = 0.15 * (1 + math.cos(math.pi * (step - first) / (last - first)))
            growth = self._growth([tensor.name for tensor in tensors], step)
            return regrow_dense([w.abs() for w in self.weights], growth, kept, groups, fraction)
        if pruning.method == "obert":
            return self._obs(kept, groups)
        masks = select_dense(self._scores(), kept, groups)
        if pruning.method != "movement":
            self.sums = None
        return masks

    def _obs(self, kept: Tensors, groups: list[Group]) -> Tensors:
        """The masks and weights of the Optimal Brain Surgeon in blocks, by inverting one matrix after another."""
        fishers = [self._fisher(row) for row in zip(*self.seen, strict=True)]
        done = [surgery(*each) for each in zip(self.weights, fishers, kept, strict=True)]
        masks = select_dense([scores for _, scores in done], kept, groups)
        done = [surgery(*each) for each in zip(self.weights, fishers, masks, strict=True)]
        self.moved, self.seen = [weight for weight, _ in done], []
        return masks

    def _fisher(self, gradients: Sequence[Tensor]) -> Tensor:
        """The mean of g g^T in whole, of sums in float32, with damping."""
        total = torch.zeros(len(gradients[0]), len(gradients[0]))
        for gradient in gradients:
            total = total + gradient.outer(gradient)
        fisher = total.double() / len(gradients)
        for part in fisher.diagonal().split(50):
            part += (self.pruning.damping or 1e-7) + 2**-20 * part.max()
        return fisher

    def _scores(self) -> Tensors:
        if self.pruning.method == "magnitude":
            return [weight.abs() for weight in self.weights]
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


def surgery(weight: Tensor, fisher: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The weights after all that are not kept are removed, and their scores."""
    moved, scores = torch.zeros(len(weight)).double(), torch.zeros(len(weight)).double()
    for start in range(0, len(weight), 50):
        part = torch.arange(start, min(start + 50, len(weight)))
        alive, removed = part[kept[part]], part[~kept[part]]
        inverse = torch.linalg.inv(fisher[alive][:, alive])
        pull = fisher[alive][:, removed] @ weight[removed].double()
        moved[alive] = weight[alive].double() + inverse @ pull
        scores[alive] = moved[alive] ** 2 / (2 * inverse.diagonal())
    return moved, scores


@contextlib.contextmanager
def recorded(engine: dsprune.PruningEngine) -> Iterator[Tensors]:
    """This rank's weights as the optimizer finds them at its first step in the block."""
    layout, found = pruner_of(engine).layout, []

    def record(*_: Any) -> None:
        if not found:
            found.extend(layout.weight(index).clone() for index in range(len(layout.shards)))

    hook = layout.base_optimizer.register_step_pre_hook(record)
    yield found
    hook.remove()


def check_bytes(engine: dsprune.PruningEngine) -> None:
    """The bytes of a mask update are at most those that are planned."""
    pruner, sent = pruner_of(engine), engine.pruner.last_update.bytes_sent  # type: ignore[union-attr]
    sizes = [shard.tensor.numel for shard in pruner.layout.shards]
    groups = update_groups([shard.tensor for shard in pruner.layout.shards], pruner.pruning, 1.0)
    _, of_blocks = block_bytes(OBert, num_shared(sizes, 50, pruner.comm.size), len(sizes))
    assert of_blocks < sent <= update_bytes(groups, pruner.comm.size) + of_blocks


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
            with recorded(engine) as stepped_from:
                train_step(engine, step, lambda: oracle.see(engine))
            new = whole_masks(pruner)
            expected = oracle.masks_after(engine, step, old)
            assert all(map(torch.equal, new, expected)), f"step {step}: not the dense selection"
            found = whole(pruner, stepped_from.__getitem__)
            for weight, moved in zip(found, oracle.moved or found, strict=True):
                torch.testing.assert_close(weight, moved.float(), rtol=1e-4, atol=1e-5)
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
                regrows = recipe.pruning.method in ("rigl", "set") or recipe.pruning.curve == "alternating"
                num_grown = sum(int(mask.sum()) for mask in grown) if regrows else None
                assert engine.pruner.last_update.num_regrown == num_grown
                if (
                    recipe.pruning.method == "obert"
                    and config["zero_optimization"]["stage"] == 3
                    and comm.size > 1
                ):
                    check_bytes(engine)
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
