"""Search the n-th lowest key of several groups by histograms, each 256 times finer than the one before."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.masks.bits import kernel_for
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "Search", "histogram", "histogram_eager", "narrow", "share_ties"]

BIN_BITS = 8
BINS = 1 << BIN_BITS
ROUNDS = 32 // BIN_BITS  # number of histograms that narrow any range of 32-bit keys to one key


@dataclass(frozen=True)
class Search:
    """A search for the `target`-th lowest key of several groups at once. Tensors are int64, one entry per group.

    Attributes:
        low: first key of the range that contains the wanted key (unless `num_below` equals `target` already).
        bits: log2 of the number of keys in the range.
        num_below: number of the group's keys below the range.
        target: rank of the wanted key, counted from 1.
    """

    low: Tensor
    bits: Tensor
    num_below: Tensor
    target: Tensor

    @classmethod
    def start(cls, ranges: Sequence[tuple[int, int]], num_below: Tensor, target: Tensor) -> "Search":
        """Start from the first and last key of each range."""
        low = torch.tensor([first for first, _ in ranges])
        bits = torch.tensor([(last - first).bit_length() for first, last in ranges])
        return cls(low, bits, num_below, target)

    @property
    def bin_bits(self) -> Tensor:
        """Log2 of the number of keys in a bin."""
        return (self.bits - BIN_BITS).clamp(min=0)

    def refine(self, histograms: Tensor) -> "Search":
        """Narrow each range to the bin with the wanted key, given the counts of the bins, `[groups, BINS]`."""
        before = histograms.cumsum(1) - histograms + self.num_below.unsqueeze(1)  # keys below each bin
        bins = (before < self.target.unsqueeze(1)).sum(1, keepdim=True).sub(1).clamp(min=0)
        low = self.low + (bins.squeeze(1) << self.bin_bits)
        return Search(low, self.bin_bits, before.gather(1, bins).squeeze(1), self.target)


def narrow(search: Search, keys: Sequence[Tensor], comm: Comm) -> Search:
    """Narrow the range of every group to one key. Collective: every rank must call this.

    Args:
        search: the ranges, one per group.
        keys: this rank's keys inside each range.
        comm: the ranks over which the groups are sharded.
    """
    for _ in range(ROUNDS):
        starts = zip(keys, search.low.tolist(), search.bin_bits.tolist(), strict=True)
        counts = torch.stack([histogram(*start) for start in starts])
        search = search.refine(comm.all_reduce_sum(counts))
    return search


def histogram(keys: Tensor, low: int, bin_bits: int) -> Tensor:
    """Count int32 keys in `BINS` bins of `2**bin_bits` keys each, from `low` on; keys outside are not counted."""
    kernel = kernel_for(keys)
    return histogram_eager(keys, low, bin_bits) if kernel is None else kernel.histogram(keys, low, bin_bits)


def histogram_eager(keys: Tensor, low: int, bin_bits: int) -> Tensor:
    """Do the same as `histogram` on any device."""
    bins = (keys.long() - low) >> bin_bits
    return torch.bincount(bins[(bins >= 0) & (bins < BINS)], minlength=BINS)


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], quotas: Tensor, comm: Comm
) -> list[int]:
    """Return the number of ties that each of this rank's shards prunes. Collective: every rank must call this.

    Each group prunes its first `quota` ties in global order: the order of the tensors, then of the flat index.
    The shards of a tensor may be on the ranks in any order.

    Args:
        shards: this rank's shards, one per tensor.
        num_ties: number of keys in each shard that are equal to the threshold of its group.
        groups: the groups of tensors.
        quotas: number of ties to prune in each group.
        comm: the ranks over which the tensors are sharded.
    """
    own = torch.tensor([(shard.start, ties) for shard, ties in zip(shards, num_ties, strict=True)])
    starts, ties = comm.all_gather(own).unbind(-1)  # [ranks, tensors] each
    order = starts.argsort(dim=0, stable=True)
    ties_in_order = ties.gather(0, order)
    shares = torch.zeros_like(ties)
    for group, quota in zip(groups, quotas, strict=True):
        columns = torch.tensor(group.tensors)
        ordered = ties_in_order[:, columns].T  # [tensors, ranks], which is the global order when flattened
        before = (ordered.flatten().cumsum(0) - ordered.flatten()).view_as(ordered)
        shares[:, columns] = (quota - before).clamp(min=0).minimum(ordered).T
    ranks = order.argsort(dim=0)[comm.rank]  # where this rank's shards are in the order of starts
    return shares.gather(0, ranks.unsqueeze(0)).squeeze(0).tolist()
