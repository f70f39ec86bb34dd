"""Exact selection of the weights to prune, over shards that lie on any number of ranks.

The mask is the same, bit for bit, for every sharding: pruned are exactly the `num_pruned` lowest scores of a
group, ties in global order. Messages are histograms, a few kilobytes a group, and all groups share a message:

    1. guess a bracket of keys around each threshold from a sample                        bracket.py
    2. one pass over all scores: count the keys below the bracket, copy those inside      passes.scan
    3. histograms of the copied keys, each 256 times finer, until the range is one key    narrow.py
    4. share out the weights that tie with the threshold                                  ties.py
    5. one pass over all scores: write the new masks                                      passes.cut
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.selection.bracket import Bracket, guess_brackets
from dsprune.distributed.selection.narrow import narrow
from dsprune.distributed.selection.ties import share_ties
from dsprune.errors import UserError
from dsprune.pure.selection.groups import Group
from dsprune.pure.selection.keys import HIGHEST_KEY, LOWEST_KEY
from dsprune.pure.selection.passes import Scorer, cut, scan
from dsprune.pure.selection.search import Search
from dsprune.pure.shard import Shard

__all__ = ["select"]


def select(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
) -> list[Tensor]:
    """Returns the new packed masks of this rank's shards. Collective: every rank must call this.

    Args:
        shards: one a tensor, in global order, on every rank; empty where the rank owns nothing.
        scorers: the scores of each shard.
        kept: its packed mask so far; what is pruned stays pruned.
        groups: each tensor is in exactly one.
        comm: the ranks over which the tensors are sharded.

    Raises:
        UserError: a score is NaN, or a group is pruned further already than it is to be; on every rank alike.
    """
    group_of = _group_of(groups, len(shards))
    brackets = guess_brackets(shards, scorers, kept, groups, comm)
    search, inside = _scan(shards, scorers, kept, groups, group_of, brackets, comm)
    search, ties = narrow(search, inside, group_of, comm)
    quotas = search.target - search.num_below
    shares = share_ties(shards, [keys.numel() for keys in ties], groups, quotas, comm)
    thresholds = search.low.tolist()
    return [
        cut(scorer, shard.numel, bits, thresholds[group], share)
        for scorer, shard, bits, group, share in zip(scorers, shards, kept, group_of, shares, strict=True)
    ]


def _group_of(groups: Sequence[Group], num_tensors: int) -> list[int]:
    """The group of each tensor."""
    owners = {place: index for index, group in enumerate(groups) for place in group.tensors}
    assert len(owners) == num_tensors == sum(len(group.tensors) for group in groups)
    return [owners[place] for place in range(num_tensors)]


def _scan(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    group_of: Sequence[int],
    brackets: Sequence[Bracket],
    comm: Comm,
) -> tuple[Search, list[Tensor]]:
    """Scans all shards, again with a wider bracket if one has missed its threshold.

    Returns:
        The search that starts from the brackets, and the keys of each shard inside its bracket.
    """
    found = [
        scan(scorer, shard.numel, bits, *brackets[group])
        for scorer, shard, bits, group in zip(scorers, shards, kept, group_of, strict=True)
    ]
    inside = [scan.inside for scan in found]
    counts = torch.zeros(len(shards) + 2 * len(groups), dtype=torch.int64)
    num_nan, num_below, num_inside = counts.split([len(shards), len(groups), len(groups)])
    for place, group in enumerate(group_of):
        num_nan[place] = found[place].num_nan
        num_below[group] += found[place].num_below
        num_inside[group] += inside[place].numel()
    counts = comm.all_reduce_sum(counts)
    num_nan, num_below, num_inside = counts.split([len(shards), len(groups), len(groups)])

    _refuse_nan(shards, num_nan)
    wider = [
        _widened(bracket, group, int(below), int(inside))
        for bracket, group, below, inside in zip(brackets, groups, num_below, num_inside, strict=True)
    ]
    if wider != list(brackets):
        return _scan(shards, scorers, kept, groups, group_of, wider, comm)
    targets = torch.tensor([group.num_pruned for group in groups])
    return Search.start(brackets, num_below, targets), inside


def _refuse_nan(shards: Sequence[Shard], num_nan: Tensor) -> None:
    for shard, count in zip(shards, num_nan.tolist(), strict=True):
        if count:
            raise UserError(
                f"{shard.tensor.name}: {count} of its scores are NaN, which have no place in an order: "
                "go back to an earlier checkpoint and lower the learning rate"
            )


def _widened(bracket: Bracket, group: Group, num_below: int, num_inside: int) -> Bracket:
    """The bracket if it holds the threshold, else everything on the side where it lies."""
    low, high = bracket
    if group.num_pruned > num_below + num_inside:
        return high + 1, HIGHEST_KEY
    if group.num_pruned > num_below:
        return bracket
    if low > LOWEST_KEY:
        return LOWEST_KEY, low - 1
    if group.num_pruned < num_below:  # nothing is below the lowest key but what is pruned already
        raise UserError(
            f"{group.name}: {num_below} weights are pruned already, more than the {group.num_pruned} of "
            f"{group.num_weights} asked for: raise the sparsity, or start from a denser model"
        )
    return bracket
