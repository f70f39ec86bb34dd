"""The passes of a selection over this rank's scores, which communicate nothing."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.selection.groups import Group
from dsprune.selection.passes import sample_all, scan_all, settle_all
from dsprune.selection.scan import Scan, Scorer
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
        self._parts = self._sampled_parts()
        self._keys = sample_all(shards, scorers, kept, self._parts)
        self._samples = [torch.cat([self._keys[place] for place in group.tensors]) for group in groups]
        self._found: list[Scan] = []
        self._inside: list[Tensor] = []

    def sample(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return _histograms(self._samples + self._samples, search)

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """See `LocalScores`."""
        ranges = [(0, 0)] * len(self._shards)
        for group, ends in zip(self._groups, brackets, strict=True):
            for place in group.tensors:
                ranges[place] = ends
        expected = partial(self._expected_inside, ranges)
        self._found = scan_all(self._shards, self._scorers, self._kept, ranges, expected)
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
        sizes = torch.tensor([part.inside.numel() for part in self._found])
        keys = torch.cat([part.inside for part in self._found])
        wanted = torch.tensor(thresholds, dtype=torch.int32).repeat_interleave(sizes).to(keys.device)
        ties = (keys == wanted).nonzero().view(-1).cpu()
        owners = torch.bucketize(ties, sizes.cumsum(0), right=True)
        return torch.bincount(owners, minlength=len(sizes)).tolist()

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """See `LocalScores`."""
        return settle_all(self._found, thresholds, shares)

    def _sampled_parts(self) -> list[slice]:
        """Return which weights of each shard are sampled: every `stride`-th of its group."""
        parts = [slice(0)] * len(self._shards)
        for group in self._groups:
            offset = 0  # of the tensor in the group
            for place in group.tensors:
                shard = self._shards[place]
                start = min(-(offset + shard.start) % group.stride, shard.numel)
                parts[place] = slice(start, shard.numel, group.stride)
                offset += shard.tensor.numel
        return parts

    def _expected_inside(self, ranges: Sequence[Bracket]) -> list[int]:
        """Return about how many keys of each shard are inside its range, by the sample."""
        return [
            part.step * int(((keys >= low) & (keys <= high)).sum())
            for part, keys, (low, high) in zip(self._parts, self._keys, ranges, strict=True)
        ]


def _histograms(keys: Sequence[Tensor], search: Search) -> Tensor:
    ranges = zip(keys, search.low.tolist(), search.bin_bits().tolist(), strict=True)
    return torch.stack([histogram(*start) for start in ranges])
