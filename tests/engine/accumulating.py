"""Functions for the ranks in the tests of methods that keep accumulators or let weights grow back."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import layer_norm, linear

import dsprune
from dsprune.masks.manifest import MANIFEST
from dsprune.methods.method import Accumulator, RegrowingMethod, find_method, lets_regrow
from dsprune.methods.obert import OBert
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.selection.compensate import block_bytes
from dsprune.selection.groups import Group, update_groups
from dsprune.selection.traffic import update_bytes
from dsprune.testing.engines import BATCH, STEPS, pruning_engine
from dsprune.testing.methods import regrow_dense, select_dense
from dsprune.testing.tiny import batch
from dsprune.testing.whole import gather, whole_marks, whole_masks
from dsprune.utils.randomness import hash_text, mix64
from tests.engine import scenarios
from tests.engine.scenarios import every_view, pruner_of, train_step

SAVED = 4
"""A step between two mask updates."""

Tensors = list[Tensor]

ADDED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "movement": lambda weight, gradient: -(weight * gradient),
    "snip": lambda weight, gradient: (weight * gradient).abs(),
    "empirical-fisher": lambda weight, gradient: gradient * gradient,
}
"""The addition of a step to the sum of each method."""


def whole(pruner: Any, local: Callable[[int], Tensor | None]) -> Tensors:
    """Whole float32 tensors, with zeros for missing ones."""
    weight = pruner.layout.weight

    def values(index: int) -> Tensor:
        found = local(index)
        return torch.zeros_like(weight(index)) if found is None else found

    return [tensor.float() for tensor in gather(pruner.layout, values)]


def accumulators(engine: dsprune.PruningEngine) -> dict[str, Tensors]:
    """Whole accumulators by name, with a tensor for each number per weight."""
    pruner = pruner_of(engine)
    kept = pruner.accumulators

    def numbers(each: Accumulator, column: int) -> Callable[[int], Tensor]:
        return lambda index: kept.values[index][each.name].view(-1, each.width)[:, column]

    marks = {"regrown": whole_marks(pruner)} if pruner.regrows else {}
    found = marks | {
        each.name: [tensor for column in range(each.width) for tensor in whole(pruner, numbers(each, column))]
        for each in kept.declared
    }
    return found if kept.inputs is None else found | {"inputs": [sums.clone() for sums in kept.inputs.values]}


def squares_of_inputs(engine: dsprune.PruningEngine) -> Tensors:
    """The squares of the inputs of each matrix of the tiny model, for the batch of a step on all ranks."""
    parameters = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(
        list(parameters.values()), enabled=engine.zero_optimization_stage() == 3
    ):
        values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    x, found = values["embed.weight"][batch(engine.applied_steps, BATCH, 0, 1)["tokens"]].mean(dim=1), []
    for block in (f"blocks.{place}" for place in range(3)):
        hidden = linear(x, values[f"{block}.up.weight"], values[f"{block}.up.bias"]).relu()
        found += [rows.double().square().sum(0) for rows in (x, hidden)]
        out = linear(hidden, values[f"{block}.down.weight"], values[f"{block}.down.bias"])
        x = layer_norm(x + out, (7,), values[f"{block}.norm.weight"], values[f"{block}.norm.bias"])
    return found


def select_dense_rows(scores: Tensors, kept: Tensors, groups: list[Group]) -> Tensors:
    """The selection of `select_dense`, with each row of a matrix as a tensor."""
    new = list(kept)
    for group in groups:
        [place], row = group.tensors, group.row
        number = group.num_pruned // group.num_rows
        rows = [Group("row", (index,), row, number) for index in range(group.num_rows)]
        new[place] = torch.cat(select_dense(scores[place].split(row), kept[place].split(row), rows))
    return new


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
        self.inputs: Tensors = []
        self.adam: torch.optim.Adam | None = None

    def see(self, engine: dsprune.PruningEngine) -> None:
        pruner = pruner_of(engine)
        self.weights, self.gradients = (
            whole(pruner, pruner.layout.weight),
            whole(pruner, pruner.layout.gradient),
        )
        if self.pruning.method == "wanda":
            self.inputs = squares_of_inputs(engine)

    def masks_after(self, engine: dsprune.PruningEngine, step: int, kept: Tensors) -> Tensors:
        """The masks after the last step; `kept` are the masks before it."""
        pruning, timetable = self.pruning, engine.timetable
        update = timetable.next_update(step)
        first, last = timetable.updates[0].step, timetable.updates[-1].step
        if pruning.first_method is not None and step <= first:
            pruning = pruning.model_copy(update={"method": pruning.first_method})
        counts = update is not None and (pruning.window is None or update.step - step < pruning.window)
        if (pruning.method in ADDED or self.inputs) and counts:
            pairs = zip(self.weights, self.gradients, strict=True)
            added = self.inputs or [ADDED[pruning.method](weight, gradient) for weight, gradient in pairs]
            self.sums = added if self.sums is None else [a + b for a, b in zip(self.sums, added, strict=True)]
        if pruning.method == "obert" and counts:
            self.seen.append(self.gradients)
        if pruning.method == "soft-movement" and counts:
            self.sums = self._trained()
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
        select = select_dense_rows if pruning.scope == "row" else select_dense
        masks = select(self._scores(), kept, groups)
        if not pruning.method.endswith("movement"):
            self.sums = None
        return masks

    def _trained(self) -> Tensors:
        """The scores after a step of Adam on the products of weights and gradients."""
        if self.adam is None:
            scores = [torch.nn.Parameter(torch.zeros_like(weight)) for weight in self.weights]
            self.adam = torch.optim.Adam(scores, lr=1.0)
        trained = self.adam.param_groups[0]["params"]
        for score, weight, gradient in zip(trained, self.weights, self.gradients, strict=True):
            score.grad = weight * gradient
        self.adam.step()
        return [score.detach().clone() for score in trained]

    def _obs(self, kept: Tensors, groups: list[Group]) -> Tensors:
        """The masks and weights of the Optimal Brain Surgeon in blocks, inverting one matrix at a time."""
        fishers = [self._fisher(row) for row in zip(*self.seen, strict=True)]
        done = [surgery(*each) for each in zip(self.weights, fishers, kept, strict=True)]
        masks = select_dense([scores for _, scores in done], kept, groups)
        done = [surgery(*each) for each in zip(self.weights, fishers, masks, strict=True)]
        self.moved, self.seen = [weight for weight, _ in done], []
        return masks

    def _fisher(self, gradients: Sequence[Tensor]) -> Tensor:
        """The complete mean of g g^T, from float32 sums, with damping."""
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
        if self.pruning.method == "wanda":
            rows = zip(self.weights, self.sums or [], strict=True)
            return [(w.view(-1, len(x)) * x.sqrt().float()).abs().view(-1) for w, x in rows]
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
    """The weights after removing all that are not kept, and their scores."""
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
    """This rank's weights just before the optimizer's first step in the block."""
    layout, found = pruner_of(engine).layout, []

    def record(*_: Any) -> None:
        if not found:
            found.extend(layout.weight(index).clone() for index in range(len(layout.shards)))

    hook = layout.base_optimizer.register_step_pre_hook(record)
    yield found
    hook.remove()


def check_bytes(engine: dsprune.PruningEngine) -> None:
    """Check that the bytes of a mask update are at most the planned ones."""
    pruner, sent = pruner_of(engine), engine.pruner.last_update.bytes_sent
    groups = update_groups([shard.tensor for shard in pruner.layout.shards], pruner.pruning, 1.0)
    _, of_blocks = block_bytes(OBert, len(pruner.layout.shards))
    assert 0 < sent <= update_bytes(groups, pruner.comm.size) + of_blocks


def check_run(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, list[int]]:
    """Train, and compare the masks with the oracle's after every step.

    Returns:
        Bytes of accumulators on this rank, and the number of weights that grew back at each mask update.
    """
    oracle, regrown = Oracle(recipe), []
    regrows = lets_regrow(recipe.pruning)
    with pruning_engine(config, recipe) as engine:
        pruner = pruner_of(engine)
        marks = [torch.zeros_like(mask) for mask in whole_masks(pruner)]
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
            marks = [(mark & now) | again for mark, now, again in zip(marks, new, grown, strict=True)]
            if regrows:
                assert all(map(torch.equal, whole_marks(pruner), marks)), (
                    f"step {step}: other weights are marked"
                )
                assert pruner.num_regrown == sum(int(mask.sum()) for mask in marks)
                kept = sum(int(mask.sum()) for mask in new)
                assert pruner.share_regrown == pruner.num_regrown / kept
            for what, view in moments.items():
                for values, mask in zip(view, grown, strict=True):
                    assert not values[mask].any(), f"step {step}: a weight grew back with {what}"
            update = engine.timetable.update_at(step)
            if update is not None:
                groups = update_groups(
                    [s.tensor for s in pruner.layout.shards], recipe.pruning, update.sparsity / 0.9
                )
                assert sum(int((~mask).sum()) for mask in new) == sum(group.num_pruned for group in groups)
                num_grown = sum(int(mask.sum()) for mask in grown) if regrows else None
                assert engine.pruner.last_update.num_regrown == num_grown
                if (
                    recipe.pruning.method == "obert"
                    and config["zero_optimization"]["stage"] == 3
                    and comm.size > 1
                ):
                    check_bytes(engine)
                regrown.append(sum(int(mask.sum()) for mask in grown))
            assert [entry.step for entry in pruner.updates] == [
                past.step for past in engine.timetable.updates if past.step <= step
            ]
        assert sum(entry.num_regrown for entry in pruner.updates) == (sum(regrown) if regrows else 0)
        assert pruner.masks.nbytes == (2 if regrows else 1) * sum(bits.numel() for bits in pruner.masks.bits)
        assert pruner.accumulators.nbytes == 0, "nothing is kept after the last mask update"
    return nbytes, regrown


def check_skipped(comm: Comm, config: dict[str, Any], recipe: Recipe) -> None:
    """Check that a step that DeepSpeed skips adds nothing, also at a mask update."""
    with pruning_engine(config, recipe) as engine:
        train_step(engine, 0, scale=torch.inf)
        assert (engine.applied_steps, engine.skipped_steps) == (0, 1)
        assert not any(value.any() for values in accumulators(engine).values() for value in values)
        train_step(engine, 0)
        assert engine.applied_steps == 1
        assert any(value.any() for values in accumulators(engine).values() for value in values)


def first_sums(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, Tensors]:
    """The number of skipped steps before the first applied one, and the accumulators after it."""
    with pruning_engine(config, recipe) as engine:
        while engine.applied_steps == 0:
            assert not any(value.any() for values in accumulators(engine).values() for value in values)
            train_step(engine, 0)
        [sums] = accumulators(engine).values()
        return engine.skipped_steps, sums


def save(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> dict[str, Tensors]:
    """Save during an accumulation."""
    with pruning_engine(config, recipe) as engine:
        for step in range(SAVED):
            train_step(engine, step)
        engine.save_checkpoint(folder, tag="saved")
        return accumulators(engine)


def load(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> dict[str, Tensors]:
    """Load, continue training, and return the loaded values."""
    with pruning_engine(config, recipe, seed=1) as engine:
        engine.load_checkpoint(folder)
        found = accumulators(engine)
        for step in range(SAVED, STEPS):
            train_step(engine, step)
        assert pruner_of(engine).audit() == []
        return found


def error_of_loading(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """The error of an engine of another method for the checkpoint."""
    with pruning_engine(config, recipe, seed=1) as engine:
        try:
            engine.load_checkpoint(folder)
        except dsprune.UserError as error:
            return str(error)
    return "no error"


def load_without_masks(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """Make masks of the zeros of a checkpoint that has lost its masks, and return the messages."""
    if dist.get_rank() == 0:
        for name in (MANIFEST, "checkpoint.json"):
            (Path(folder) / "saved" / name).unlink()
    dist.barrier()
    said = io.StringIO()
    with pruning_engine(config, recipe, seed=1) as engine, contextlib.redirect_stderr(said):
        engine.load_checkpoint(folder, masks_from="zeros")
        assert not any(value.any() for values in accumulators(engine).values() for value in values)
    return said.getvalue()


check_resume = scenarios.check_resume
