"""Search the n-th lowest key of several groups by histograms, each 256 times finer than the one before."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.masks.kernel import kernel_for
from dsprune.ranks.collectives import Comm

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "Search", "histogram", "histogram_eager", "narrow"]

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
