"""Functions for the ranks in the engine tests: each runs on every rank of a pool, with assertions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from torch import Tensor

import dsprune
from dsprune.checkpoint.pruning_state import PruningState
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.selection.groups import update_groups
from dsprune.testing.engines import BATCH, STEPS, pruning_engine
from dsprune.testing.methods import select_dense
from dsprune.testing.tiny import batch
from dsprune.testing.whole import gather, gather_views, whole_masks
from dsprune.utils.dtypes import DTYPES


def pruner_of(engine: dsprune.PruningEngine) -> PruningState:
    return engine.pruner.state


def train_step(
    engine: dsprune.PruningEngine,
    step: int,
    before_step: Callable[[], None] = lambda: None,
    scale: float = 1.0,
) -> None:
    """Take one optimizer step on the batch of `step`; `before_step` is called after its last backward pass."""
    share = batch(step, BATCH, dist.get_rank(), dist.get_world_size())
    accumulation = engine.gradient_accumulation_steps()
    for part in range(accumulation):
        loss = engine(**{name: value[part::accumulation] for name, value in share.items()}).loss * scale
        engine.backward(loss)
        if part == accumulation - 1:
            before_step()
        engine.step()


def every_view(pruner: PruningState) -> dict[str, list[Tensor]]:
    """The whole master weights, working copy and moments."""
    layout = pruner.layout
    return gather_views(
        layout, lambda i: {"weight": layout.weight(i), "copy": layout.working_copy(i), **layout.states(i)}
    )


def dense_scores(pruner: PruningState) -> list[Tensor]:
    """The scores of magnitude or Fisher pruning, from whole tensors."""
    layout = pruner.layout
    weights = gather(pruner.layout, layout.weight)
    if pruner.pruning.method == "magnitude":
        return [weight.abs() for weight in weights]

    def second_moment(index: int) -> Tensor:
        found = layout.states(index).get("exp_avg_sq")
        if found is None:
            gradient = layout.gradient(index)
            return torch.zeros_like(layout.weight(index)) if gradient is None else gradient.float() ** 2
        return found

    return [
        weight.float().abs() * moment.float().sqrt()
        for weight, moment in zip(weights, gather(pruner.layout, second_moment), strict=True)
    ]


def check_invariants(comm: Comm, config: dict[str, Any], recipe: Recipe) -> tuple[int, list[list[int]]]:
    """Train with mask updates, and check everything against the dense oracle after every step.

    Returns:
        Digest of the masks after the first mask update, and the zeros of each tensor after every applied step.
    """
    counts, skipped, first_digest = [], [], None
    with pruning_engine(config, recipe) as engine:
        pruner, timetable = pruner_of(engine), engine.timetable
        tensors = [shard.tensor for shard in pruner.layout.shards]
        while (step := engine.applied_steps) < STEPS:
            update = timetable.update_at(step)
            before = every_view(pruner) if recipe.precision == "fp16" else {}
            masks_before = expected = whole_masks(pruner)
            if update is not None and pruner.pruning.scope != "normalized":
                groups = update_groups(tensors, pruner.pruning, timetable.progress(update))
                expected = select_dense(dense_scores(pruner), expected, groups)

            train_step(engine, step)

            assert set(engine.get_lr()) == {0.02 * timetable.lr_multiplier(engine.applied_steps)}
            if not engine.was_step_applied():
                skipped.append(step)
                check_nothing_changed(pruner, before, masks_before)
                continue
            assert engine.applied_steps == step + 1
            masks, views = whole_masks(pruner), every_view(pruner)
            if pruner.pruning.scope != "normalized":
                assert all(map(torch.equal, masks, expected)), f"step {step}: not the dense selection"
            for weight, copy in zip(views["weight"], views["copy"], strict=True):
                assert torch.equal(weight.to(DTYPES[recipe.precision]).double(), copy), f"step {step}"
            for what, view in views.items():
                for tensor, values, kept in zip(tensors, view, masks, strict=True):
                    where = f"step {step}: {what} of {tensor.name}"
                    assert not values[~kept].any(), f"{where}: a pruned entry is not zero"
                    assert not torch.signbit(values[values == 0]).any(), f"{where}: -0.0"
            assert pruner.audit() == []
            counts.append([int((~kept).sum()) for kept in masks])
            first_digest = pruner.masks.digest(pruner.comm) if first_digest is None else first_digest
        assert engine.skipped_steps == len(skipped)
        assert any(map(timetable.update_at, skipped)) == (recipe.precision == "fp16")
        assert engine.sparsity()["sparsity_prunable"] == sum(counts[-1]) / pruner.num_prunable
    assert first_digest is not None
    return first_digest, counts


def check_nothing_changed(pruner: PruningState, views: dict[str, list[Tensor]], masks: list[Tensor]) -> None:
    """Check that a skipped step has changed no weight, moment or mask."""
    assert all(map(torch.equal, whole_masks(pruner), masks))
    found = every_view(pruner)
    for what, before in views.items():
        assert all(map(torch.equal, found[what], before)), what


def digest_of_random(comm: Comm, config: dict[str, Any], recipe: Recipe) -> int:
    """The digest of the masks after the last mask update, which does not depend on the training."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            train_step(engine, step)
        assert pruner_of(engine).audit() == []
        return pruner_of(engine).masks.digest(pruner_of(engine).comm)


def check_gradient_norm(comm: Comm, config: dict[str, Any], recipe: Recipe) -> list[tuple[float, float]]:
    """DeepSpeed's norm for clipping, and the norm of the gradient without its pruned entries, at every step."""
    norms: list[tuple[float, float]] = []
    with pruning_engine(config, recipe) as engine:
        gradients: dict[str, Tensor] = {}

        def read_gradients() -> None:
            for name, parameter in engine.module.named_parameters():
                gradients[name] = safe_get_full_grad(parameter).double().clone()

        for step in range(STEPS):
            train_step(engine, step, read_gradients)
            pruner = pruner_of(engine)
            for shard, kept in zip(pruner.layout.shards, whole_masks(pruner), strict=True):
                gradients[shard.tensor.name].view(-1)[~kept] = 0.0
            expected = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
            norms.append((float(engine.get_global_grad_norm()), float(expected)))
    return norms


def check_resume(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> None:
    """Check that stopping after 5 steps (including skipped ones) and resuming gives the uninterrupted result."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            if step == 5:
                engine.save_checkpoint(folder)
                saved = engine.applied_steps, engine.skipped_steps
            train_step(engine, step)
        expected, digest = (
            every_view(pruner_of(engine)),
            pruner_of(engine).masks.digest(pruner_of(engine).comm),
        )
        marks, updates = pruner_of(engine).masks.regrown, pruner_of(engine).updates
        rate, ended = engine.get_lr(), (engine.applied_steps, engine.skipped_steps)
    with pruning_engine(config, recipe, seed=1) as engine:
        engine.load_checkpoint(folder)
        assert (engine.applied_steps, engine.skipped_steps) == saved
        assert recipe.precision == "fp16" or saved == (5, 0)
        for step in range(5, STEPS):
            train_step(engine, step)
        pruner = pruner_of(engine)
        assert pruner.masks.digest(pruner.comm) == digest
        assert all(map(torch.equal, pruner.masks.regrown, marks))
        assert (pruner.updates, bool(marks)) == (updates, pruner.regrows)
        assert engine.get_lr() == rate
        assert (engine.applied_steps, engine.skipped_steps) == ended
        for what, view in every_view(pruner).items():
            assert all(map(torch.equal, view, expected[what])), what


def masters_after_a_step(comm: Comm, config: dict[str, Any], recipe: Recipe) -> list[Tensor]:
    """The master weights after one step."""
    with pruning_engine(config, recipe) as engine:
        train_step(engine, 0)
        return gather(pruner_of(engine).layout, pruner_of(engine).layout.weight)


def masters_at_the_end(comm: Comm, config: dict[str, Any], recipe: Recipe) -> list[Tensor]:
    """The master weights after all steps."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            train_step(engine, step)
        return gather(pruner_of(engine).layout, pruner_of(engine).layout.weight)


def check_skipped_update(comm: Comm, config: dict[str, Any], recipe: Recipe) -> None:
    """Check that a mask update whose step overflows changes nothing, and is repeated at the next step."""
    with pruning_engine(config, recipe) as engine:
        pruner = pruner_of(engine)
        before = gather(pruner.layout, pruner.layout.weight)
        train_step(engine, 0, scale=torch.inf)
        assert (engine.applied_steps, engine.skipped_steps) == (0, 1)
        assert all(kept.all() for kept in whole_masks(pruner))
        assert all(map(torch.equal, gather(pruner.layout, pruner.layout.weight), before))
        train_step(engine, 0)
        assert engine.applied_steps == 1
        assert engine.sparsity()["sparsity_prunable"] == 0.5
        assert pruner.audit() == []


def save_checkpoint(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> list[Tensor]:
    """Save a trained checkpoint, and return its whole masks."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            train_step(engine, step)
        engine.save_checkpoint(folder, tag="last")
        return whole_masks(pruner_of(engine))


def error_of_loading(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> str:
    """The error of a new engine for a checkpoint."""
    with pruning_engine(config, recipe) as engine:
        try:
            engine.load_checkpoint(folder, tag="last")
        except dsprune.UserError as error:
            return str(error)
    return "no error"


def save_16bit_model(comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str) -> None:
    """Check that DeepSpeed's own export works on the wrapped engine."""
    with pruning_engine(config, recipe) as engine:
        for step in range(STEPS):
            train_step(engine, step)
        assert engine.save_16bit_model(folder, "weights.bin")
    if dist.get_rank() == 0:
        state = torch.load(Path(folder) / "weights.bin", weights_only=True)
        pruned = sum(
            int((state[name] == 0).sum()) for name in state if name.endswith(("up.weight", "down.weight"))
        )
        assert pruned == round(0.9 * 630)
    dist.barrier()
