"""Exact selection of the weights to prune, over shards on any number of ranks.

The mask is the same, bit for bit, for every sharding: exactly the `num_pruned` lowest scores of a group are
pruned, with ties in global order. Ranks exchange histograms, a few kilobytes per group, and all groups share a
message:

    1. guess a bracket of keys around the threshold of each group from a sample     bracket.guess_brackets
    2. in one pass over all scores, prune and count the keys below the bracket,
       and copy the keys inside                                                     scan.scan
    3. narrow the bracket to the threshold by histograms of the copied keys         search.narrow
    4. divide the ties with the threshold among the shards                          ties.share_ties
    5. prune the copied keys below the threshold, and the shard's ties              scan.settle
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.bits import unpack
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.bracket import Bracket, guess_brackets
from dsprune.selection.groups import Group
from dsprune.selection.normalize import normalize
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, Scan, Scorer, scan, settle
from dsprune.selection.search import Search, narrow, share_ties

__all__ = ["select", "select_complete"]


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
    group_of = _group_of(groups, len(shards))
    brackets = guess_brackets(shards, scorers, kept, groups, comm)
    search, found = _scan_all(shards, scorers, kept, groups, group_of, brackets, comm)
    search = narrow(search, [_inside(found, group) for group in groups], comm)
    thresholds = search.low[group_of].tolist()
    num_ties = [int((part.inside == key).sum()) for part, key in zip(found, thresholds, strict=True)]
    shares = share_ties(shards, num_ties, groups, search.target - search.num_below, comm)
    return [settle(*settled) for settled in zip(found, thresholds, shares, strict=True)]


def _group_of(groups: Sequence[Group], num_tensors: int) -> list[int]:
    """Return the index of each tensor's group."""
    owners = {place: index for index, group in enumerate(groups) for place in group.tensors}
    assert len(owners) == num_tensors == sum(len(group.tensors) for group in groups)
    return [owners[place] for place in range(num_tensors)]


def _scan_all(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    group_of: Sequence[int],
    brackets: Sequence[Bracket],
    comm: Comm,
) -> tuple[Search, list[Scan]]:
    """Scan all shards, and again with a wider bracket if a bracket missed its threshold.

    Returns:
        The search that starts from the brackets, and the scan of each shard.
    """
    found = [
        scan(scorer, shard.numel, bits, *brackets[group])
        for scorer, shard, bits, group in zip(scorers, shards, kept, group_of, strict=True)
    ]
    counts = [part.num_nan for part in found]
    counts += [sum(found[place].num_below for place in group.tensors) for group in groups]
    counts += [sum(found[place].inside.numel() for place in group.tensors) for group in groups]
    totals = comm.all_reduce_sum(torch.tensor(counts))
    num_nan, num_below, num_inside = totals.split([len(shards), len(groups), len(groups)])

    _check_no_nan(shards, num_nan)
    wider = [
        _widened(bracket, group, int(below), int(inside))
        for bracket, group, below, inside in zip(brackets, groups, num_below, num_inside, strict=True)
    ]
    if wider != list(brackets):
        return _scan_all(shards, scorers, kept, groups, group_of, wider, comm)
    targets = torch.tensor([group.num_pruned for group in groups])
    return Search.start(brackets, num_below, targets), found


def _inside(found: Sequence[Scan], group: Group) -> Tensor:
    """Return this rank's keys inside the group's bracket."""
    return torch.cat([found[place].inside for place in group.tensors])


def _check_no_nan(shards: Sequence[Shard], num_nan: Tensor) -> None:
    for shard, count in zip(shards, num_nan.tolist(), strict=True):
        if count:
            raise UserError(
                f"{shard.tensor.name}: {count} of its scores are NaN and cannot be ranked: "
                "resume from an earlier checkpoint with a lower learning rate"
            )


def _widened(bracket: Bracket, group: Group, num_below: int, num_inside: int) -> Bracket:
    """Return the bracket if it contains the threshold, else all keys on the side of the threshold."""
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


def select_complete(
    tensors: Sequence[PrunableTensor],
    weights: Sequence[Tensor],
    groups: Sequence[Group],
    *,
    normalized: bool = False,
) -> list[Tensor]:
    """Select by magnitude from dense weights, as a mask update does, and return boolean masks, True = kept.

    Args:
        tensors: all prunable tensors, in the global order.
        weights: the complete weights of each, all on one device.
        groups: the groups of tensors, with their numbers of zeros.
        normalized: whether to divide the scores by the root mean square of their tensor's.

    Returns:
        One mask per tensor, in the tensor's shape.
    """
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    flat = [values.detach().view(-1) for values in weights]
    scorers = [Scorer(values.__getitem__, absolute=True) for values in flat]
    device = flat[0].device
    if normalized:
        scorers = normalize(shards, scorers, device, Comm())
    masks = select(shards, scorers, MaskSet(shards, device).bits, groups, Comm())
    return [
        unpack(bits, tensor.numel).view(tensor.shape) for tensor, bits in zip(tensors, masks, strict=True)
    ]
