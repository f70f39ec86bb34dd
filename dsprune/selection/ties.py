"""Divide the ties with a threshold among the shards, in global order: the order of the tensors, then of the flat index.

The shards of a tensor may be on the ranks in any order. The shard with the last pruned tie is found by the place of its
first weight in its group, with the same search as a threshold. So the bytes do not depend on the number of ranks.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.search import BIN_BITS, Search, narrow

__all__ = ["share_ties", "tie_rounds"]

WIDEST = 12
"""Log2 of the bins in a message: a few groups are searched with wider histograms, in fewer rounds."""


class _Pieces(NamedTuple):
    """This rank's shards of a group: the place of each first weight in the group, and its ties. `[tensors]`, int64."""

    first: Tensor
    ties: Tensor


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], found: Search, comm: Comm
) -> list[int]:
    """Return the number of ties that each of this rank's shards prunes. Collective: every rank must call this.

    Only groups that prune some of their ties, and not all, need messages.

    Args:
        shards: this rank's shards, one per tensor.
        num_ties: number of keys in each shard that are equal to the threshold of its group.
        groups: the groups of tensors.
        found: the search that has found the thresholds.
        comm: the ranks over which the tensors are sharded.
    """
    quotas = (found.target - found.num_below).tolist()
    shares = [0] * len(shards)
    divided = []
    for group, quota, total in zip(groups, quotas, found.num_inside.tolist(), strict=True):
        if 0 < quota < total:
            divided.append((group, quota, total))
        elif quota:
            _assign(shares, group, [num_ties[place] for place in group.tensors])
    if divided:
        largest = max(group.num_weights for group in groups)
        _, digit = tie_rounds(len(divided), largest)
        for (group, *_), share in zip(divided, _divide(shards, num_ties, divided, digit, comm), strict=True):
            _assign(shares, group, share)
    return shares


def tie_rounds(num_groups: int, num_weights: int) -> tuple[int, int]:
    """Return the rounds that find a place in groups of at most `num_weights`, and log2 of the bins of a histogram."""
    bits = (num_weights - 1).bit_length()
    digit = max(BIN_BITS, WIDEST - (num_groups - 1).bit_length())
    rounds = -(-bits // digit) or 1
    return rounds, max(BIN_BITS, -(-bits // rounds))


def _assign(shares: list[int], group: Group, share: Sequence[int]) -> None:
    for place, number in zip(group.tensors, share, strict=True):
        shares[place] = number


def _divide(
    shards: Sequence[Shard],
    num_ties: Sequence[int],
    divided: Sequence[tuple[Group, int, int]],
    digit: int,
    comm: Comm,
) -> Iterator[list[int]]:
    """Yield how many ties each shard of a group prunes. Collective: every rank must call this.

    Args:
        shards: as for `share_ties`.
        num_ties: as for `share_ties`.
        divided: groups, with the number of ties that each prunes, and has.
        digit: log2 of the bins of a histogram.
        comm: as for `share_ties`.
    """
    groups, quotas, totals = zip(*divided, strict=True)
    pieces = [_pieces(shards, num_ties, group) for group in groups]

    def count(search: Search) -> Tensor:
        ranges = zip(pieces, search.low.tolist(), search.bin_bits(digit).tolist(), strict=True)
        return torch.stack([_histogram(own, low, bits, digit) for own, low, bits in ranges])

    ranges = [(0, group.num_weights - 1) for group in groups]
    start = Search.start(
        ranges, torch.zeros(len(groups), dtype=torch.int64), torch.tensor(totals), torch.tensor(quotas)
    )
    cut = narrow(start, count, comm)
    for own, first, left in zip(pieces, cut.low, cut.target - cut.num_below, strict=True):
        at_cut = torch.where(own.first == first, own.ties.clamp(max=left), 0)
        yield torch.where(own.first < first, own.ties, at_cut).tolist()


def _pieces(shards: Sequence[Shard], num_ties: Sequence[int], group: Group) -> _Pieces:
    first, offset = [], 0
    for place in group.tensors:
        first.append(offset + shards[place].start)
        offset += shards[place].tensor.numel
    return _Pieces(torch.tensor(first), torch.tensor([num_ties[place] for place in group.tensors]))


def _histogram(own: _Pieces, low: int, bin_bits: int, digit: int) -> Tensor:
    bins = (own.first - low) >> bin_bits
    inside = (bins >= 0) & (bins < 1 << digit)
    return torch.zeros(1 << digit, dtype=torch.int64).index_add_(0, bins[inside], own.ties[inside])
