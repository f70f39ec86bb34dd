"""Search the n-th lowest key of several groups by successively finer histograms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.kernels.cpu import kernel_for
from dsprune.ranks.collectives import Comm

__all__ = ["BINS", "BIN_BITS", "ROUNDS", "Search", "histograms", "histograms_eager", "is_found", "narrow"]

BIN_BITS = 8
BINS = 1 << BIN_BITS
ROUNDS = 32 // BIN_BITS  # number of histograms that narrow any range of 32-bit keys to one key


@dataclass(frozen=True)
class Search:
    """A search for the `target`-th lowest key of several groups at once. Tensors are int64, one entry per group.

    Attributes:
        low: first key of the range that contains the target key (unless `num_below` already equals `target`).
        bits: log2 of the number of keys in the range.
        num_below: number of the group's keys below the range.
        num_inside: number of the group's keys in the range.
        target: rank of the target key, counted from 1.
    """

    low: Tensor
    bits: Tensor
    num_below: Tensor
    num_inside: Tensor
    target: Tensor

    @classmethod
    def start(
        cls, ranges: Sequence[tuple[int, int]], num_below: Tensor, num_inside: Tensor, target: Tensor
    ) -> "Search":
        """Start from the first and last key of each range."""
        low = torch.tensor([first for first, _ in ranges])
        bits = torch.tensor([(last - first).bit_length() for first, last in ranges])
        return cls(low, bits, num_below, num_inside, target)

    def bin_bits(self, digit: int = BIN_BITS) -> Tensor:
        """Return log2 of the number of keys in a bin, if a range has `2**digit` bins."""
        return (self.bits - digit).clamp(min=0)

    def refine(self, histograms: Tensor) -> "Search":
        """Narrow each range to the bin with the target key, given the counts of the bins, `[groups, 2**digit]`."""
        bin_bits = self.bin_bits(histograms.shape[1].bit_length() - 1)
        before = histograms.cumsum(1) - histograms + self.num_below.unsqueeze(1)  # keys below each bin
        bins = (before < self.target.unsqueeze(1)).sum(1, keepdim=True).sub(1).clamp(min=0)
        low = self.low + (bins.squeeze(1) << bin_bits)
        num_below, num_inside = (counts.gather(1, bins).squeeze(1) for counts in (before, histograms))
        return Search(low, bin_bits, num_below, num_inside, self.target)


def is_found(search: Search) -> bool:
    """Return whether every range is one key."""
    return not search.bits.any()


def narrow(
    search: Search,
    count: Callable[[Search], Tensor],
    comm: Comm,
    is_enough: Callable[[Search], bool] = is_found,
) -> Search:
    """Narrow the ranges of all groups, with one message per round. Collective: every rank must call this.

    Args:
        search: the ranges, one per group.
        count: returns the counts of this rank's keys in the bins of a search, `[groups, bins]`.
        comm: the ranks over which the groups are sharded.
        is_enough: whether a search needs no further round; the same on every rank.
    """
    while not is_enough(search):
        search = search.refine(comm.all_reduce_sum(count(search)))
    return search


def histograms(keys: Tensor, sizes: Tensor, low: Tensor, bin_bits: Tensor) -> Tensor:
    """Count the keys of several groups in bins; keys outside of these are not counted.

    Args:
        keys: int32 keys on the CPU, one group after the other.
        sizes: number of keys of each group.
        low: first key of each range: one or several per group; the first range of every group comes first.
        bin_bits: log2 of the number of keys in a bin of each range.

    Returns:
        `[ranges, BINS]`, int64.
    """
    ranges = sizes.cumsum(0) - sizes, sizes, low, bin_bits
    kernel = kernel_for(keys)
    return histograms_eager(keys, *ranges) if kernel is None else kernel.histograms(keys, *ranges)


def histograms_eager(keys: Tensor, begins: Tensor, sizes: Tensor, low: Tensor, bin_bits: Tensor) -> Tensor:
    """Count like `histograms`, on any device, given start and number of the keys of each group."""
    parts = [keys[begin : begin + size] for begin, size in torch.stack([begins, sizes], 1).tolist()]
    ranges = zip(low.tolist(), bin_bits.tolist(), strict=True)
    return torch.stack([_histogram(parts[i % len(parts)], *start) for i, start in enumerate(ranges)])


def _histogram(keys: Tensor, low: int, bin_bits: int) -> Tensor:
    bins = (keys.long() - low) >> bin_bits
    return torch.bincount(bins[(bins >= 0) & (bins < BINS)], minlength=BINS)
