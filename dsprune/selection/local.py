"""The passes of a selection over this rank's scores, which communicate nothing."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dsprune.masks.bits import pick
from dsprune.model.shard import Shard
from dsprune.selection.groups import Group
from dsprune.selection.scan import Scan, Scorer, scan, settle, to_keys
from dsprune.selection.search import Search, histogram

__all__ = ["Bracket", "Counts", "LocalScores", "ShardScores"]

Bracket = tuple[int, int]
"""First and last key of a range."""


class Counts(NamedTuple):
    """What a pass over all scores counts, int64.

    Attributes:
        num_nan: number of NaN scores, `[tensors]`.
        num_below: number of keys below the bracket, `[groups]`.
        num_inside: number of keys in the bracket, `[groups]`.
    """

    num_nan: Tensor
    num_below: Tensor
    num_inside: Tensor


class LocalScores(Protocol):
    """One rank's scores."""

    def sample(self, search: Search) -> Tensor:
        """Count the keys of the sample, `[2 groups, BINS]`: a search has two ranges a group, all low ones first."""

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """Pass over all scores: count, and keep the keys inside the brackets for what follows."""

    def inside(self, search: Search) -> Tensor:
        """Count the keys inside the brackets, `[groups, BINS]`."""

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """Return the number of each shard's keys that are equal to its threshold."""

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """Return the new packed masks, which prune the keys below the thresholds and the first `shares` ties."""


class ShardScores:
    """The scores of a rank's shards; the arguments are those of `dsprune.selection.select`."""

    def __init__(
        self,
        shards: Sequence[Shard],
        scorers: Sequence[Scorer],
        kept: Sequence[Tensor],
        groups: Sequence[Group],
    ) -> None:
        self._shards, self._scorers, self._kept, self._groups = shards, scorers, kept, groups
        self._samples = [self._sample(group) for group in groups]
        self._found: list[Scan] = []
        self._inside: list[Tensor] = []

    def sample(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return _histograms(self._samples + self._samples, search)

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """See `LocalScores`."""
        bracket_of = {
            place: ends for group, ends in zip(self._groups, brackets, strict=True) for place in group.tensors
        }
        shards = zip(self._scorers, self._shards, self._kept, strict=True)
        self._found = [
            scan(scorer, shard.numel, bits, *bracket_of[place])
            for place, (scorer, shard, bits) in enumerate(shards)
        ]
        found = [[self._found[place] for place in group.tensors] for group in self._groups]
        self._inside = [torch.cat([part.inside for part in parts]) for parts in found]
        return Counts(
            torch.tensor([part.num_nan for part in self._found]),
            torch.tensor([sum(part.num_below for part in parts) for parts in found]),
            torch.tensor([keys.numel() for keys in self._inside]),
        )

    def inside(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return _histograms(self._inside, search)

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """See `LocalScores`."""
        pairs = zip(self._found, thresholds, strict=True)
        return [int((part.inside == threshold).sum()) for part, threshold in pairs]

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """See `LocalScores`."""
        return [settle(*settled) for settled in zip(self._found, thresholds, shares, strict=True)]

    def _sample(self, group: Group) -> Tensor:
        """Return the keys of every `stride`-th weight of the group, as far as this rank owns them."""
        offset = 0  # of the tensor in the group
        keys = []
        for place in group.tensors:
            shard, scorer = self._shards[place], self._scorers[place]
            part = slice(-(offset + shard.start) % group.stride, shard.numel, group.stride)
            if part.start < shard.numel:
                mask = pick(self._kept[place], part, shard.numel)
                keys.append(to_keys(scorer.values(part), scorer.absolute, mask))
            offset += shard.tensor.numel
        return torch.cat(keys) if keys else torch.empty(0, dtype=torch.int32)


def _histograms(keys: Sequence[Tensor], search: Search) -> Tensor:
    ranges = zip(keys, search.low.tolist(), search.bin_bits().tolist(), strict=True)
    return torch.stack([histogram(*start) for start in ranges])
