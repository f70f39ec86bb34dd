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
        """Return values, given in the global order, in this order."""
        return [values[place] for place in self.places.tolist()]

    def restored(self, values: Sequence[T]) -> list[T]:
        """Return values, given in this order, in the global order."""
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
        """Count the keys in the bins of a search with one or several ranges per group, `[ranges, BINS]`."""
        return histograms(self.keys, self.tensors.totals(self.sizes), search.low, search.bin_bits())

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """Return the number of keys of each tensor that equal its threshold, both in the global order."""
        of_key = torch.tensor(thresholds, dtype=torch.int32)[self.tensors.places].repeat_interleave(
            self.sizes
        )
        ties = (self.keys == of_key).nonzero().view(-1)
        owners = torch.bucketize(ties, self.sizes.cumsum(0), right=True)
        return self.tensors.restored(owners.bincount(minlength=len(self.sizes)).tolist())
