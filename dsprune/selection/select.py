"""Exact selection of the weights to prune, over shards on any number of ranks.

The mask is the same, bit for bit, for every sharding: exactly the `num_pruned` lowest scores of a group are
pruned, with ties in global order. Ranks exchange histograms, a few kilobytes per group, and all groups share a
message:

    1. guess a bracket of keys around the threshold of each group from a sample     bracket.guess_brackets
    2. in one pass over all scores, count the keys below the bracket and inside,
       these by bins; all counts share a message                                    LocalScores.scan
    3. narrow the bracket to the threshold by histograms of the keys inside         search.narrow
    4. divide the ties with the threshold among the shards                          ties.share_ties
    5. prune the keys below the threshold, and the shard's ties                     LocalScores.settle

On a CPU the pass also copies the keys inside (`shard_scores`). On an accelerator each histogram is a pass of its own
(`device_scores`).

Groups with rows have too many rows for histograms: see `dsprune.selection.rows`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.bracket import guess_brackets
from dsprune.selection.device_scores import DeviceScores, products_on_device
from dsprune.selection.groups import Group
from dsprune.selection.local import Bracket, LocalScores
from dsprune.selection.rows import select_rows
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, Scorer, refuse_nan
from dsprune.selection.search import Search, narrow
from dsprune.selection.shard_scores import ShardScores
from dsprune.selection.ties import share_ties

__all__ = ["select", "select_from"]


def select(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
) -> list[Tensor]:
    """Return the new packed masks of this rank's shards. Collective: every rank must call this.

    Args:
        shards: one per tensor, in global order, on every rank; empty if the rank owns no weight of the tensor.
        scorers: the scores of each shard.
        kept: the packed mask of each shard so far; pruned weights stay pruned.
        groups: the groups of tensors; each tensor is in exactly one.
        comm: the ranks over which the tensors are sharded.

    Raises:
        UserError: on every rank, if a score is NaN or a group has more pruned weights than its `num_pruned`.
    """
    if any(group.num_rows > 1 for group in groups):
        return select_rows(shards, scorers, kept, groups, comm)
    products = products_on_device(shards, scorers)
    scores: LocalScores = (
        ShardScores(shards, scorers, kept, groups)
        if products is None
        else DeviceScores(shards, products, scorers[0].absolute, kept, groups)
    )
    return select_from(scores, shards, groups, comm)


def select_from(
    scores: LocalScores, shards: Sequence[Shard], groups: Sequence[Group], comm: Comm
) -> list[Tensor]:
    """Select like `select`, given the passes over this rank's scores. Collective: every rank must call this."""
    brackets = guess_brackets(scores, groups, comm)
    start = _scan_all(scores, shards, groups, brackets, comm)
    found = narrow(start, scores.inside, comm)
    thresholds = _of_tensors(groups, found.low.tolist())
    shares = share_ties(shards, scores.num_ties(thresholds), groups, found, comm)
    return scores.settle(thresholds, shares)


def _of_tensors(groups: Sequence[Group], values: Sequence[int]) -> list[int]:
    """Return the value of each tensor's group."""
    of_place = {place: value for group, value in zip(groups, values, strict=True) for place in group.tensors}
    assert len(of_place) == sum(len(group.tensors) for group in groups)
    return [of_place[place] for place in range(len(of_place))]


def _scan_all(
    scores: LocalScores,
    shards: Sequence[Shard],
    groups: Sequence[Group],
    brackets: Sequence[Bracket],
    comm: Comm,
) -> Search:
    """Scan all shards. If a bracket missed its threshold, scan again with a wider one.

    Collective: every rank must call this.

    Returns:
        The search in the brackets, narrowed by the first histogram.
    """
    counts = scores.scan(brackets)
    message = comm.all_reduce_sum(torch.cat([part.flatten() for part in counts]))
    num_nan, num_below, num_inside, total = message.split([part.numel() for part in counts])
    refuse_nan(shards, num_nan.tolist())
    wider = [
        _widened(bracket, group, int(below), int(inside))
        for bracket, group, below, inside in zip(brackets, groups, num_below, num_inside, strict=True)
    ]
    if wider != list(brackets):
        return _scan_all(scores, shards, groups, wider, comm)
    targets = torch.tensor([group.num_pruned for group in groups])
    return Search.start(brackets, num_below, num_inside, targets).refine(total.view_as(counts.histograms))


def _widened(bracket: Bracket, group: Group, num_below: int, num_inside: int) -> Bracket:
    """Return the bracket if it contains the threshold; otherwise all keys on the side of the threshold."""
    low, high = bracket
    if group.num_pruned > num_below + num_inside:
        return high + 1, HIGHEST_KEY
    if group.num_pruned > num_below:
        return bracket
    if low > LOWEST_KEY:
        return LOWEST_KEY, low - 1
    if group.num_pruned < num_below:  # only pruned weights are below the lowest key
        raise UserError(
            f"{group.name}: {num_below} of {group.num_weights} weights are pruned already, more than the "
            f"{group.num_pruned} of this mask update: raise the sparsity, or start from a denser model"
        )
    return bracket
