"""Weights that are sparse before the run begins: their zeros become the masks that it begins with."""

from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.masks.files import MANIFEST, read_manifest, read_masks
from dsprune.distributed.ranks import Ranks
from dsprune.distributed.together import on_every_rank
from dsprune.engine.pruner import Pruner
from dsprune.engine.zero import open_layout
from dsprune.errors import UserError
from dsprune.pure.masks.bits import apply_
from dsprune.pure.prunable import find_prunable
from dsprune.pure.selection.groups import event_groups

__all__ = ["MasksFrom", "begin_sparse", "take_up_zeros"]

MasksFrom = Literal["zeros", "none"]
"""What becomes of the zeros of weights without masks: they are kept as masks, or may grow back."""

SPARSE = 0.01
"""From this fraction of exact zeros on a model counts as sparse; a dense one has next to none."""


def begin_sparse(
    engine: DeepSpeedEngine, pruner: Pruner | None, model: Path, masks_from: MasksFrom | None, clock: int
) -> float:
    """Take up the masks of the model that a run starts from. Collective: every rank must call this.

    Args:
        engine: holds the model's weights.
        pruner: None when nothing is to be pruned.
        model: folder that they come from; masks that dsprune left there are taken up.
        masks_from: what to do with zeros without masks.
        clock: the engine's.

    Returns:
        The sparsity that the run begins with, of the prunable weights.

    Raises:
        UserError: the model is sparse, and nobody said what becomes of its zeros.
    """
    if masks_from == "none":
        return 0.0
    if pruner is not None and masks_from is None and (model / MANIFEST).is_file():
        ranks = Ranks(dist.get_rank(), 0, dist.get_world_size())
        shards = pruner.layout.shards
        bits = on_every_rank(ranks, lambda: read_masks(model, read_manifest(model), shards))
        masks = MaskSet(shards)
        masks.replace(bits)
        _begin(pruner, masks, str(model), clock)
    elif pruner is not None and masks_from == "zeros":
        take_up_zeros(pruner, str(model), clock)
    elif (zeros := _fraction_of_zeros(engine, pruner)) > SPARSE:
        keep = "--masks-from zeros keeps its zeros"
        if pruner is None:
            keep = f"pruning={{sparsity: {zeros:.4f}, curve: one-shot, start: 0}} with {keep}"
        raise UserError(
            f"{model}: {100 * zeros:.1f} % of its prunable weights are zero, and it has no masks: {keep}, "
            f"--masks-from none lets them grow back"
        )
    return 0.0 if pruner is None else pruner.num_pruned / pruner.num_prunable


def take_up_zeros(pruner: Pruner, where: str, clock: int) -> None:
    """Prune what is zero already. Collective: every rank must call this.

    Raises:
        UserError: more is zero than an event to come asks for.
    """
    layout = pruner.layout
    weights = [layout.weight(index).cpu() for index in range(len(layout.shards))]
    _begin(pruner, MaskSet.from_zeros(layout.shards, weights), where, clock)


def _begin(pruner: Pruner, masks: MaskSet, where: str, clock: int) -> None:
    _check_events(pruner, masks.counts(pruner.comm), where, clock)
    pruner.restore(masks.bits)
    pruner.begun_with = pruner.masks.counts(pruner.comm)
    for index, bits in enumerate(pruner.masks.bits):
        for view in (pruner.layout.weight(index), *pruner.layout.states(index).values()):
            apply_(bits, view)  # -0.0 goes, and what a moment had kept
    pruner.layout.refresh_copies()


def _check_events(pruner: Pruner, counts: list[int], where: str, clock: int) -> None:
    """No event to come may ask for less than there is."""
    tensors = [shard.tensor for shard in pruner.layout.shards]
    for event in pruner.timetable.events:
        if event.step < clock:
            continue
        for group in event_groups(tensors, pruner.pruning, pruner.timetable.progress(event)):
            zeros = sum(counts[place] for place in group.tensors)
            if zeros > group.num_pruned:
                have, ask = zeros / group.num_weights, group.num_pruned / group.num_weights
                raise UserError(
                    f"pruning: {where}: {group.name} begin {have:.4f} sparse, and the event at step {event.step} "
                    f"asks for {ask:.4f}: raise pruning.first or pruning.sparsity, or use curve: one-shot"
                )


def _fraction_of_zeros(engine: DeepSpeedEngine, pruner: Pruner | None) -> float:
    """Of the prunable weights; of what would be prunable, when nothing is pruned."""
    try:
        layout = pruner.layout if pruner is not None else open_layout(engine, find_prunable(engine.module))
    except UserError:  # a model without prunable weights is trained densely
        return 0.0
    zeros = sum(int((layout.weight(index) == 0).sum()) for index in range(len(layout.shards)))
    total = int(Comm(layout.group, layout.device).all_reduce_sum(torch.tensor(zeros)))
    return total / max(1, sum(shard.tensor.numel for shard in layout.shards))
