"""Exact selection of the weights to prune, over shards that lie on any number of ranks.

The mask is the same, bit for bit, for every sharding: pruned are exactly the `num_pruned` lowest scores of a
group, ties in global order. Messages are histograms, a few kilobytes a group, and all groups share a message:

    1. guess a bracket of keys around each threshold from a sample                        bracket.py
    2. one pass over all scores: prune and count those below, copy those inside           passes.scan
    3. histograms of the copied keys, each 256 times finer, until the range is one key    narrow.py
    4. share out the weights that tie with the threshold                                  ties.py
    5. prune what of the copied keys is below the threshold, and the ties                 passes.settle
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.bracket import Bracket, guess_brackets
from dsprune.selection.groups import Group
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, Scan, Scorer, scan, settle
from dsprune.selection.search import Search, narrow

__all__ = ["select", "share_ties"]


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
    search, found = _scan(shards, scorers, kept, groups, group_of, brackets, comm)
    search = narrow(search, [_inside(found, group) for group in groups], comm)
    thresholds = search.low[group_of].tolist()
    num_ties = [int((scan.inside == key).sum()) for scan, key in zip(found, thresholds, strict=True)]
    shares = share_ties(shards, num_ties, groups, search.target - search.num_below, comm)
    return [settle(*settled) for settled in zip(found, thresholds, shares, strict=True)]


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
) -> tuple[Search, list[Scan]]:
    """Scans all shards, again with a wider bracket if one has missed its threshold.

    Returns:
        The search that starts from the brackets, and what each shard has below and inside its bracket.
    """
    found = [
        scan(scorer, shard.numel, bits, *brackets[group])
        for scorer, shard, bits, group in zip(scorers, shards, kept, group_of, strict=True)
    ]
    counts = [scan.num_nan for scan in found]
    counts += [sum(found[place].num_below for place in group.tensors) for group in groups]
    counts += [sum(found[place].inside.numel() for place in group.tensors) for group in groups]
    totals = comm.all_reduce_sum(torch.tensor(counts))
    num_nan, num_below, num_inside = totals.split([len(shards), len(groups), len(groups)])

    _refuse_nan(shards, num_nan)
    wider = [
        _widened(bracket, group, int(below), int(inside))
        for bracket, group, below, inside in zip(brackets, groups, num_below, num_inside, strict=True)
    ]
    if wider != list(brackets):
        return _scan(shards, scorers, kept, groups, group_of, wider, comm)
    targets = torch.tensor([group.num_pruned for group in groups])
    return Search.start(brackets, num_below, targets), found


def _inside(found: Sequence[Scan], group: Group) -> Tensor:
    """This rank's keys inside the group's bracket."""
    return torch.cat([found[place].inside for place in group.tensors])


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


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], quotas: Tensor, comm: Comm
) -> list[int]:
    """Returns how many ties each of this rank's shards prunes, so that a group prunes its first `quota` ones.

    Global order is the order of the tensors, then of the flat index. A tensor's shards may lie on ranks in
    any order. Collective: every rank must call this.
    """
    own = torch.tensor([(shard.start, ties) for shard, ties in zip(shards, num_ties, strict=True)])
    starts, ties = comm.all_gather(own).unbind(-1)  # [ranks, tensors] each
    order = starts.argsort(dim=0, stable=True)
    ties_in_order = ties.gather(0, order)
    shares = torch.zeros_like(ties)
    for group, quota in zip(groups, quotas, strict=True):
        columns = torch.tensor(group.tensors)
        ordered = ties_in_order[:, columns].T  # [tensors, ranks]: reads in global order
        before = (ordered.flatten().cumsum(0) - ordered.flatten()).view_as(ordered)
        shares[:, columns] = (quota - before).clamp(min=0).minimum(ordered).T
    ranks = order.argsort(dim=0)[comm.rank]  # where this rank's shards came in the order of starts
    return shares.gather(0, ranks.unsqueeze(0)).squeeze(0).tolist()
