"""Divide the ties with a threshold among the shards, in global order: by tensor, then by flat index.

The shards of a tensor may be on the ranks in any order. The search for the last pruned tie works like the search for a
threshold, on the places of the ties in the group. So the bytes sent do not depend on the number of ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.search import BIN_BITS, Search, narrow

__all__ = ["share_ties", "tie_rounds"]

WIDEST = 12
"""Log2 of the bins in a message: a few groups use wider histograms, and fewer rounds."""


class _Pieces(NamedTuple):
    """This rank's shards of the groups that divide their ties, int64.

    Attributes:
        shard: place of each among the rank's shards.
        group: place of its group among those that divide their ties.
        first: place of its first weight in the group.
        ties: number of its ties.
    """

    shard: Tensor
    group: Tensor
    first: Tensor
    ties: Tensor


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], found: Search, comm: Comm
) -> list[int]:
    """Return the number of ties that each of this rank's shards prunes. Collective: every rank must call this.

    Only groups that prune some but not all of their ties need messages.

    Args:
        shards: this rank's shards, one per tensor.
        num_ties: number of keys in each shard that are equal to the threshold of its group.
        groups: the groups of tensors.
        found: the search that has found the thresholds.
        comm: the ranks over which the tensors are sharded.
    """
    quotas = found.target - found.num_below
    has_part = (quotas > 0) & (quotas < found.num_inside)
    shares = torch.tensor(num_ties)
    for group, quota in zip(groups, quotas.tolist(), strict=True):
        if quota == 0:
            shares[torch.tensor(group.tensors)] = 0
    if has_part.any():
        largest = max(group.num_weights for group in groups)
        divided = [group for group, is_divided in zip(groups, has_part.tolist(), strict=True) if is_divided]
        pieces = _pieces(shards, num_ties, divided)
        _, digit = tie_rounds(len(divided), largest)
        shares[pieces.shard] = _divide(
            pieces, divided, quotas[has_part], found.num_inside[has_part], digit, comm
        )
    return shares.tolist()


def tie_rounds(num_groups: int, num_weights: int) -> tuple[int, int]:
    """Return the number of rounds that find a place among `num_weights`, and log2 of the bins of a histogram."""
    bits = (num_weights - 1).bit_length()
    digit = max(BIN_BITS, WIDEST - (num_groups - 1).bit_length())
    rounds = -(-bits // digit) or 1
    return rounds, max(BIN_BITS, -(-bits // rounds))


def _pieces(shards: Sequence[Shard], num_ties: Sequence[int], divided: Sequence[Group]) -> _Pieces:
    rows = []
    for number, group in enumerate(divided):
        offset = 0  # of the tensor in the group
        for place in group.tensors:
            rows.append((place, number, offset + shards[place].start, num_ties[place]))
            offset += shards[place].tensor.numel
    return _Pieces(*torch.tensor(rows).T)


def _divide(
    pieces: _Pieces, divided: Sequence[Group], quotas: Tensor, totals: Tensor, digit: int, comm: Comm
) -> Tensor:
    """Return the number of ties that each piece prunes. Collective: every rank must call this.

    A group prunes its quota of its `totals` of ties. A histogram has `2**digit` bins.
    """
    ranges = [(0, group.num_weights - 1) for group in divided]
    start = Search.start(ranges, torch.zeros_like(quotas), totals, quotas)
    cut = narrow(start, lambda search: _histograms(pieces, search, digit), comm)
    first, left = cut.low[pieces.group], (cut.target - cut.num_below)[pieces.group]
    at_cut = torch.where(pieces.first == first, pieces.ties.minimum(left), 0)
    return torch.where(pieces.first < first, pieces.ties, at_cut)


def _histograms(pieces: _Pieces, search: Search, digit: int) -> Tensor:
    """Count the ties of the pieces by their places, `[groups, 2**digit]`."""
    bins = (pieces.first - search.low[pieces.group]) >> search.bin_bits(digit)[pieces.group]
    is_inside = (bins >= 0) & (bins < 1 << digit)
    counts = torch.zeros(len(search.low) << digit, dtype=torch.int64)
    places = (pieces.group << digit) + bins
    return counts.index_add_(0, places[is_inside], pieces.ties[is_inside]).view(-1, 1 << digit)
