"""Narrows ranges of keys to single keys, by histograms: each step divides every range by 256."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.pure.selection.keys import NAN_KEY
from dsprune.pure.selection.wire import BIN_BITS, BINS

__all__ = ["Search"]


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

    def histogram(self, keys: Tensor, group: int) -> Tensor:
        """Counts keys of the group's range by bin: `[BINS]`."""
        bins = (keys.long() - int(self.low[group])) >> int(self.bin_bits[group])
        return torch.bincount(bins, minlength=BINS)

    def refine(self, histograms: Tensor) -> "Search":
        """Narrows each range to the bin that holds the wanted key, given the `[groups, BINS]` counts."""
        before = histograms.cumsum(1) - histograms + self.num_below.unsqueeze(1)  # keys below each bin
        bins = (before < self.target.unsqueeze(1)).sum(1, keepdim=True).sub(1).clamp(min=0)
        low = self.low + (bins.squeeze(1) << self.bin_bits)
        return Search(low, self.bin_bits, before.gather(1, bins).squeeze(1), self.target)

    def filter(self, keys: Tensor, group: int) -> Tensor:
        """Returns the keys that are in the group's range."""
        low = int(self.low[group])
        last = min(low + (1 << int(self.bits[group])) - 1, NAN_KEY)
        return keys[(keys >= low) & (keys <= last)]
