"""Start from a sparse model: its masks, or its exact zeros, become the first masks of the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from deepspeed import DeepSpeedEngine

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.errors import UserError
from dsprune.masks.bits import apply_
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.masks.mask_files import read_masks
from dsprune.masks.mask_set import MaskSet
from dsprune.model.prunable import choose_weights
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.collectives import Comm
from dsprune.ranks.group import announce
from dsprune.recipe import Pruning
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.schedule import Timetable
from dsprune.selection.groups import update_groups
from dsprune.selection.patterned import count_broken
from dsprune.selection.rows import count_rows
from dsprune.zero.parameters import full_shape
from dsprune.zero.stages import open_layout

__all__ = [
    "MasksFrom",
    "check_first_masks",
    "check_masks_from",
    "mask_zeros",
    "read_first_masks",
    "start_from_masks",
    "start_sparse",
]

MasksFrom = Literal["zeros", "none"]
"""How to treat zeros of weights without masks: `zeros` makes masks of them, `none` lets them grow back."""

SPARSE = 0.01
"""Fraction of exact zeros above which a model counts as sparse. A dense model has almost none."""


def check_masks_from(masks_from: Any) -> None:
    """Check that `masks_from` has one of its values.

    Raises:
        UserError: it has another one.
    """
    if masks_from not in (None, *get_args(MasksFrom)):
        raise UserError(
            f"masks_from={masks_from!r}: unknown: give 'zeros', 'none', or None to refuse zeros without masks"
        )


def start_sparse(
    engine: DeepSpeedEngine,
    state: PruningState | None,
    model: Path | str | None,
    masks_from: MasksFrom | None,
    step: int,
) -> float:
    """Keep the zeros of the initial model of a run. Collective: every rank must call this.

    Args:
        engine: holds the model's weights.
        state: the masks to set; None when the recipe prunes nothing.
        model: folder of the model; None if a script has made it.
        masks_from: what to do with zeros. None loads the masks in the model's folder, and refuses a sparse model
            without masks.
        step: number of applied optimizer steps.

    Returns:
        The sparsity at the start, of the prunable weights.

    Raises:
        UserError: the model is sparse without masks and `masks_from` is None, or a mask update has a lower sparsity.
    """
    check_masks_from(masks_from)
    if masks_from == "none":
        return 0.0
    if masks_from is None and state is not None and state.sparsity:
        return state.sparsity
    where = "model" if model is None else str(model)
    if state is not None and masks_from == "zeros":
        mask_zeros(state, where, step)
    elif state is not None and model is not None and Path(model, MANIFEST).is_file():
        start_from_masks(state, Path(model), step)
    elif (zeros := _fraction_of_zeros(engine, state)) > SPARSE:
        why, keep = "it has no masks", "masks_from=zeros (--masks-from zeros) keeps its zeros"
        if state is None:
            why = "the recipe has no section pruning"
            keep = f"pruning={{sparsity: {zeros:.4f}, curve: one-shot, start: 0}} with {keep}"
        raise UserError(
            f"{where}: {100 * zeros:.1f} % of its prunable weights are zero, and {why}: {keep}, "
            f"masks_from=none lets them grow back"
        )
    return 0.0 if state is None else state.sparsity


def start_from_masks(state: PruningState, folder: Path, step: int) -> None:
    """Use the masks of a checkpoint or a model folder as the first masks of the run.

    Collective: every rank must call this.

    Raises:
        UserError: a file is damaged, or a later mask update has a lower sparsity.
    """
    masks = on_every_rank(lambda: read_first_masks(folder, state.layout.shards))
    _start_from(masks, state, str(folder), step)


def read_first_masks(folder: Path, shards: Sequence[Shard]) -> MaskSet:
    """Read the masks of a checkpoint or a model folder.

    Raises:
        UserError: a file is damaged, or the masks are of other tensors.
    """
    masks = MaskSet(shards)
    masks.replace(read_masks(folder, read_manifest(folder), shards))
    return masks


def mask_zeros(state: PruningState, where: str, step: int) -> None:
    """Make masks of the exact zeros of the weights; `where` names their origin in messages.

    Collective: every rank must call this.

    Raises:
        UserError: a later mask update has a lower sparsity.
    """
    layout = state.layout
    masks = MaskSet.from_zeros(layout.shards, [weight.cpu() for weight in layout.weights()])
    found = list(zip(layout.tensors, masks.counts(state.comm), strict=True))
    if any(count == tensor.numel for tensor, count in found):
        announce(f"{where}: {_names_of_empty(found)} zero, and masked: no weight of such a matrix is trained")
    _start_from(masks, state, where, step)


def _start_from(masks: MaskSet, state: PruningState, where: str, step: int) -> None:
    """Set the first masks of a run, and apply them to weights and moments. Collective: every rank must call this."""
    check_first_masks(masks, state.pruning, state.timetable, state.comm, where, step)
    state.restore(masks.bits)
    state.initial_pruned = state.masks.counts(state.comm)
    for index, bits in enumerate(state.masks.bits):
        for view in (state.layout.weight(index), *state.layout.states(index).values()):
            apply_(bits, view)  # -0.0 becomes +0.0, and moments of pruned weights become zero
    state.layout.refresh_copies()


def check_first_masks(
    masks: MaskSet, pruning: Pruning, timetable: Timetable, comm: Comm, where: str, step: int = 0
) -> None:
    """Check that a run can start from masks at a step. Collective: every rank must call this.

    Args:
        masks: the masks of this rank's shards.
        pruning: the run's section of the recipe.
        timetable: the run's mask updates.
        comm: the ranks that hold the shards.
        where: origin of the masks, for messages.
        step: number of applied optimizer steps.

    Raises:
        UserError: the zeros do not fill whole tiles of the pattern, or a later mask update has fewer zeros.
    """
    _check_pattern(masks, pruning, comm, where)
    _check_updates(masks, pruning, timetable, comm, where, step)


def _check_pattern(masks: MaskSet, pruning: Pruning, comm: Comm, where: str) -> None:
    """Check that the zeros fill whole tiles. Collective: every rank must call this."""
    pattern = Pattern.parse(pruning.pattern)
    for shard, broken in zip(
        masks.shards, count_broken(masks.shards, masks.bits, pattern, comm), strict=True
    ):
        if broken:
            raise UserError(
                f"pruning.pattern: value {pattern.text}: {where}: {shard.tensor.name}: {broken:,} of its tiles have "
                f"other zeros: choose the pattern that it was pruned with, or let its zeros grow back with "
                f"--masks-from none"
            )


def _check_updates(
    masks: MaskSet, pruning: Pruning, timetable: Timetable, comm: Comm, where: str, step: int
) -> None:
    """Check that no later mask update that prunes has fewer zeros. Collective: every rank must call this."""
    later = [update for update in timetable.updates if update.step >= step and update.sparsity > 0]
    if not later:
        return
    update = min(later, key=lambda update: update.sparsity)
    groups, counts = update_groups(masks.tensors, pruning, timetable.progress(update)), masks.counts(comm)
    rows = [0] * len(counts)
    if SCOPES.get(pruning.scope).by_row:
        rows = count_rows(masks.shards, masks.bits, groups, torch.gt, comm)
    for group in groups:
        zeros, overfull = (sum(of_tensor[place] for place in group.tensors) for of_tensor in (counts, rows))
        if zeros > group.num_pruned or overfull:
            found, asked = zeros / group.num_weights, group.num_pruned / group.num_weights
            above = f" ({overfull:,} of {group.num_rows:,} rows have more)" if overfull else ""
            raise UserError(
                f"pruning: {where}: {group.name}: sparsity {found:.4f} at the start, but only {asked:.4f}{above} at "
                f"the mask update at step {update.step}: raise pruning.first or pruning.sparsity, or use "
                f"curve: one-shot"
            )


def _fraction_of_zeros(engine: DeepSpeedEngine, state: PruningState | None) -> float:
    """Return the fraction of zeros of the prunable weights; without a state, of the weights prunable by default.

    If only some tensors are all zero, they are left out and reported: many layers are initialized with zeros.
    Collective: every rank must call this.
    """
    try:
        if state is None:
            layout = open_layout(engine, choose_weights(engine.module, shape_of=full_shape).tensors)
        else:
            layout = state.layout
    except UserError:  # a model without prunable weights is trained densely
        return 0.0
    zeros = torch.tensor([int((weight == 0).sum()) for weight in layout.weights()])
    counts = Comm(layout.group, layout.device).all_reduce_sum(zeros).tolist()
    found = list(zip(layout.tensors, counts, strict=True))
    partly = [(tensor, count) for tensor, count in found if count < tensor.numel]
    fraction = _fraction(partly)
    if fraction > SPARSE or not partly:
        return _fraction(found)
    if len(partly) < len(found):
        announce(f"{_names_of_empty(found)} zero: trained from zero, not treated as pruned")
    return fraction


def _fraction(zeros: Sequence[tuple[PrunableTensor, int]]) -> float:
    return sum(count for _, count in zeros) / max(1, sum(tensor.numel for tensor, _ in zeros))


def _names_of_empty(zeros: Sequence[tuple[PrunableTensor, int]]) -> str:
    """Print the names of the tensors that are all zero."""
    names = [tensor.name for tensor, count in zeros if count == tensor.numel]
    return f"{names[0]} is all" if len(names) == 1 else f"{len(names)} matrices, such as {names[0]}, are all"
