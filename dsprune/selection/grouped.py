"""Tensors, and their keys, in the order of the groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dsprune.selection.groups import Group
from dsprune.selection.search import Search, histograms

__all__ = ["GroupedKeys", "GroupedTensors"]

T = TypeVar("T")


class GroupedTensors:
    """The tensors in the order of their groups, one group after the other.

    Attributes:
        places: place of each in the global order, int64.
        groups: number of the group of each, int64.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        sizes = torch.tensor([len(group.tensors) for group in groups], dtype=torch.int64)
        self.places = torch.tensor([place for group in groups for place in group.tensors], dtype=torch.int64)
        self.groups = torch.arange(len(groups)).repeat_interleave(sizes)
        self._num_groups = len(groups)

    def ordered(self, values: Sequence[T]) -> list[T]:
        """Return values given in the global order in this one."""
        return [values[place] for place in self.places.tolist()]

    def restored(self, values: Sequence[T]) -> list[T]:
        """Return values given in this order in the global one."""
        return [values[place] for place in self.places.argsort().tolist()]

    def totals(self, values: Tensor) -> Tensor:
        """Return the sums over the tensors of each group."""
        return values.new_zeros(self._num_groups, *values.shape[1:]).index_add_(0, self.groups, values)


@dataclass(frozen=True)
class GroupedKeys:
    """Some keys of each tensor.

    Attributes:
        tensors: the tensors.
        keys: their keys, one tensor after the other, on the CPU.
        sizes: number of keys of each tensor.
    """

    tensors: GroupedTensors
    keys: Tensor
    sizes: Tensor

    def histograms(self, search: Search) -> Tensor:
        """Count the keys in the bins of a search with one range a group, or several, `[ranges, BINS]`."""
        return histograms(self.keys, self.tensors.totals(self.sizes), search.low, search.bin_bits())

    def ties(self, thresholds: Sequence[int]) -> Tensor:
        """Return which keys are equal to the threshold of their tensor, given in the global order."""
        return self.keys == self.each(thresholds, torch.int32)

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """Return how many ties each tensor has, both in the global order."""
        counts = self.owners(self.ties(thresholds)).bincount(minlength=len(self.sizes))
        return self.tensors.restored(counts.tolist())

    def pruned(self, thresholds: Sequence[int], quotas: Sequence[int]) -> Tensor:
        """Return which keys are pruned: those below the threshold of their tensor, and the first `quotas` ties.

        Both are given in the global order.
        """
        ties = self.ties(thresholds)
        before = torch.cat([ties.new_zeros(1, dtype=torch.int64), ties.cumsum(0)])
        first = before[self.sizes.cumsum(0) - self.sizes]  # ties before each tensor
        numbers = before[:-1] - first.repeat_interleave(self.sizes)
        return (self.keys < self.each(thresholds, torch.int32)) | (
            ties & (numbers < self.each(quotas, torch.int64))
        )

    def owners(self, chosen: Tensor) -> Tensor:
        """Return the number of the tensor of each key that is chosen by a boolean mask."""
        return torch.bucketize(chosen.nonzero().view(-1), self.sizes.cumsum(0), right=True)

    def each(self, values: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the value of the tensor of each key, given in the global order."""
        return torch.tensor(values, dtype=dtype)[self.tensors.places].repeat_interleave(self.sizes)
