"""Narrow ranges of keys to single keys by histograms, each 256 times finer; and what that sends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.masks.kernel import kernel_for
from dsprune.ranks.collectives import Comm

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "Search", "histogram", "histogram_eager", "narrow", "update_bytes"]

BIN_BITS = 8


BINS = 1 << BIN_BITS


ROUNDS = 32 // BIN_BITS  # histograms that narrow any range of 32-bit keys to one key


def update_bytes(num_groups: int, num_tensors: int, world_size: int, normalized: bool = False) -> int:
    """Bytes that one rank hands to collectives in one mask update; every number sent takes eight.

    More precisely: the guess of the brackets sends two searches a group, and the exact search is one more.
    Between them go a count of NaN a tensor, and the counts below and inside the bracket of a group; at the
    end the start and the ties of each shard. Normalised scores first need each tensor's largest and squares.
    A bracket misses its threshold about once in ten thousand mask updates: then the counts are sent again.
    """
    if world_size == 1:
        return 0
    searches = 3 * num_groups * ROUNDS * BINS
    counts = num_tensors + 2 * num_groups
    ties = 2 * num_tensors
    scales = 2 * num_tensors if normalized else 0
    return 8 * (searches + counts + ties + scales)


@dataclass(frozen=True)
class Search:
    """Looks for the `target`-th lowest key of several groups at once. Tensors are int64, one entry a group.

    Attributes:
        low: first key of the range that holds the wanted key (unless `num_below == target` already).
        bits: log2 of the number of keys in the range.
        num_below: how many of the group's keys are below the range.
        target: the rank of the wanted key, from 1.
    """

    low: Tensor
    bits: Tensor
    num_below: Tensor
    target: Tensor

    @classmethod
    def start(cls, ranges: Sequence[tuple[int, int]], num_below: Tensor, target: Tensor) -> "Search":
        """Starts from the first and last key of each range."""
        low = torch.tensor([first for first, _ in ranges])
        bits = torch.tensor([(last - first).bit_length() for first, last in ranges])
        return cls(low, bits, num_below, target)

    @property
    def bin_bits(self) -> Tensor:
        """Log2 of the number of keys in a bin."""
        return (self.bits - BIN_BITS).clamp(min=0)

    def refine(self, histograms: Tensor) -> "Search":
        """Narrows each range to the bin that holds the wanted key, given the `[groups, BINS]` counts."""
        before = histograms.cumsum(1) - histograms + self.num_below.unsqueeze(1)  # keys below each bin
        bins = (before < self.target.unsqueeze(1)).sum(1, keepdim=True).sub(1).clamp(min=0)
        low = self.low + (bins.squeeze(1) << self.bin_bits)
        return Search(low, self.bin_bits, before.gather(1, bins).squeeze(1), self.target)


def histogram(keys: Tensor, low: int, bin_bits: int) -> Tensor:
    """Counts int32 keys in `BINS` bins of `2**bin_bits` keys each, from `low` on; those outside in none."""
    kernel = kernel_for(keys)
    return histogram_eager(keys, low, bin_bits) if kernel is None else kernel.histogram(keys, low, bin_bits)


def histogram_eager(keys: Tensor, low: int, bin_bits: int) -> Tensor:
    """`histogram` for any device."""
    bins = (keys.long() - low) >> bin_bits
    return torch.bincount(bins[(bins >= 0) & (bins < BINS)], minlength=BINS)


def narrow(search: Search, keys: Sequence[Tensor], comm: Comm) -> Search:
    """Narrows every range to one key. Collective: every rank must call this.

    Args:
        search: the ranges, one a group.
        keys: this rank's keys inside each of them.
        comm: the ranks that hold the groups' keys together.
    """
    for _ in range(ROUNDS):
        starts = zip(keys, search.low.tolist(), search.bin_bits.tolist(), strict=True)
        counts = torch.stack([histogram(*start) for start in starts])
        search = search.refine(comm.all_reduce_sum(counts))
    return search
