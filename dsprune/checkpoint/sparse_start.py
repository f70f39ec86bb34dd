"""Weights that are sparse before the run begins: their zeros become the masks that it begins with."""

from pathlib import Path
from typing import Literal

import torch
from deepspeed import DeepSpeedEngine

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.errors import UserError
from dsprune.masks import MaskSet
from dsprune.masks.bits import apply_
from dsprune.masks.files import read_masks
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.model.prunable import find_prunable
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.collectives import Comm
from dsprune.ranks.ranks import current_ranks
from dsprune.selection.groups import update_groups
from dsprune.zero.parameters import full_shape
from dsprune.zero.stages import open_layout

__all__ = ["MasksFrom", "begin_sparse", "masks_from_zeros"]

MasksFrom = Literal["zeros", "none"]
"""What becomes of the zeros of weights without masks: they are kept as masks, or may grow back."""


SPARSE = 0.01
"""From this fraction of exact zeros on a model counts as sparse; a dense one has next to none."""


def begin_sparse(
    engine: DeepSpeedEngine, state: PruningState | None, model: Path, masks_from: MasksFrom | None, step: int
) -> float:
    """Take up the masks of the model that a run starts from. Collective: every rank must call this.

    Args:
        engine: holds the model's weights.
        state: None when nothing is to be pruned.
        model: folder that they come from; masks that dsprune left there are taken up.
        masks_from: what to do with zeros without masks.
        step: the engine's.

    Returns:
        The sparsity that the run begins with, of the prunable weights.

    Raises:
        UserError: the model is sparse, and nobody said what becomes of its zeros.
    """
    if masks_from == "none":
        return 0.0
    if state is not None and masks_from is None and (model / MANIFEST).is_file():
        ranks = current_ranks()
        shards = state.layout.shards
        bits = on_every_rank(ranks, lambda: read_masks(model, read_manifest(model), shards))
        masks = MaskSet(shards)
        masks.replace(bits)
        _begin(state, masks, str(model), step)
    elif state is not None and masks_from == "zeros":
        masks_from_zeros(state, str(model), step)
    elif (zeros := _fraction_of_zeros(engine, state)) > SPARSE:
        keep = "--masks-from zeros keeps its zeros"
        if state is None:
            keep = f"pruning={{sparsity: {zeros:.4f}, curve: one-shot, start: 0}} with {keep}"
        raise UserError(
            f"{model}: {100 * zeros:.1f} % of its prunable weights are zero, and it has no masks: {keep}, "
            f"--masks-from none lets them grow back"
        )
    return 0.0 if state is None else state.num_pruned / state.num_prunable


def masks_from_zeros(state: PruningState, where: str, step: int) -> None:
    """Prune what is zero already. Collective: every rank must call this.

    Raises:
        UserError: more is zero than a mask update to come asks for.
    """
    layout = state.layout
    weights = [layout.weight(index).cpu() for index in range(len(layout.shards))]
    _begin(state, MaskSet.from_zeros(layout.shards, weights), where, step)


def _begin(state: PruningState, masks: MaskSet, where: str, step: int) -> None:
    _check_updates(state, masks.counts(state.comm), where, step)
    state.restore(masks.bits)
    state.initial_pruned = state.masks.counts(state.comm)
    for index, bits in enumerate(state.masks.bits):
        for view in (state.layout.weight(index), *state.layout.states(index).values()):
            apply_(bits, view)  # -0.0 goes, and what a moment had kept
    state.layout.refresh_copies()


def _check_updates(state: PruningState, counts: list[int], where: str, step: int) -> None:
    """No mask update to come may ask for less than there is."""
    tensors = [shard.tensor for shard in state.layout.shards]
    for update in state.timetable.updates:
        if update.step < step:
            continue
        for group in update_groups(tensors, state.pruning, state.timetable.progress(update)):
            zeros = sum(counts[place] for place in group.tensors)
            if zeros > group.num_pruned:
                have, ask = zeros / group.num_weights, group.num_pruned / group.num_weights
                raise UserError(
                    f"pruning: {where}: {group.name} begin {have:.4f} sparse, and the mask update at step {update.step}"
                    f" asks for {ask:.4f}: raise pruning.first or pruning.sparsity, or use curve: one-shot"
                )


def _fraction_of_zeros(engine: DeepSpeedEngine, state: PruningState | None) -> float:
    """Of the prunable weights; of what would be prunable, when nothing is pruned."""
    try:
        layout = (
            state.layout
            if state is not None
            else open_layout(engine, find_prunable(engine.module, shape_of=full_shape))
        )
    except UserError:  # a model without prunable weights is trained densely
        return 0.0
    zeros = sum(int((layout.weight(index) == 0).sum()) for index in range(len(layout.shards)))
    total = int(Comm(layout.group, layout.device).all_reduce_sum(torch.tensor(zeros)))
    return total / max(1, sum(shard.tensor.numel for shard in layout.shards))
