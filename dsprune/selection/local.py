"""The passes of a selection over this rank's scores, without communication."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.selection.groups import Group
from dsprune.selection.search import Search

__all__ = ["Bracket", "Counts", "LocalScores", "sampled_parts"]

Bracket = tuple[int, int]
"""First and last key of a range."""


class Counts(NamedTuple):
    """The counts of a pass over all scores, int64.

    Attributes:
        num_nan: number of NaN scores, `[tensors]`.
        num_below: number of keys below the bracket, `[groups]`.
        num_inside: number of keys in the bracket, `[groups]`.
        histograms: the keys in the bracket by bins, `[groups, BINS]`.
    """

    num_nan: Tensor
    num_below: Tensor
    num_inside: Tensor
    histograms: Tensor


class LocalScores(Protocol):
    """One rank's scores."""

    def sample(self, search: Search) -> Tensor:
        """Count the keys of the sample, `[2 groups, BINS]`: a search has two ranges per group, all lower ones first."""

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """Pass over all scores, and count."""

    def inside(self, search: Search) -> Tensor:
        """Count the keys inside ranges within those of the last `scan`, `[groups, BINS]`."""

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """Return the number of each shard's keys that are equal to its threshold."""

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """Return the new packed masks, which prune the keys below the thresholds and the first `shares` ties."""


def sampled_parts(shards: Sequence[Shard], groups: Sequence[Group]) -> list[slice]:
    """Return the sampled weights of each shard: every `stride`-th of its group."""
    parts = [slice(0)] * len(shards)
    for group in groups:
        offset = 0  # of the tensor in the group
        for place in group.tensors:
            start = min(-(offset + shards[place].start) % group.stride, shards[place].numel)
            parts[place] = slice(start, shards[place].numel, group.stride)
            offset += shards[place].tensor.numel
    return parts
