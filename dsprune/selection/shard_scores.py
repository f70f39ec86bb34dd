"""The scores of a rank's shards, one shard at a time: compiled functions in threads, or torch for other scores.

The results of a pass are on the CPU, where messages are built; masks stay on their device.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsprune.kernels.cpu import in_threads
from dsprune.model.shard import Shard
from dsprune.selection.grouped import GroupedKeys, GroupedTensors
from dsprune.selection.groups import Group
from dsprune.selection.local import Bracket, Counts, sampled_parts
from dsprune.selection.scan import Scan, Scorer, sample, scan, settle
from dsprune.selection.search import Search

__all__ = ["ShardScores"]

R = TypeVar("R")


class ShardScores:
    """See `LocalScores`. The arguments are those of `dsprune.selection.select`."""

    def __init__(
        self,
        shards: Sequence[Shard],
        scorers: Sequence[Scorer],
        kept: Sequence[Tensor],
        groups: Sequence[Group],
    ) -> None:
        self._shards, self._scorers, self._kept = shards, scorers, kept
        self._tensors = GroupedTensors(groups)
        self._sampled = self._grouped(self._for_each(sample, sampled_parts(shards, groups)))
        self._found: list[Scan] = []

    def sample(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return self._sampled.histograms(search)

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """See `LocalScores`: it prunes the keys below the brackets, and copies those inside."""
        low, high = torch.tensor(brackets)[self._tensors.groups].T.tolist()
        found = self._for_each(scan, self._tensors.restored(low), self._tensors.restored(high))
        self._found = [one._replace(inside=one.inside.cpu(), places=one.places.cpu()) for one in found]
        self._inside = self._grouped([part.inside for part in self._found])
        none = torch.zeros(len(brackets), dtype=torch.int64)
        below = torch.tensor([part.num_below for part in self._tensors.ordered(self._found)])
        return Counts(
            torch.tensor([part.num_nan for part in self._found]),
            self._tensors.totals(below),
            self._tensors.totals(self._inside.sizes),
            self._inside.histograms(Search.start(brackets, none, none, none)),
        )

    def inside(self, search: Search) -> Tensor:
        """See `LocalScores`."""
        return self._inside.histograms(search)

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """See `LocalScores`."""
        return self._inside.num_ties(thresholds)

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """See `LocalScores`."""
        return [settle(*part) for part in zip(self._found, thresholds, shares, strict=True)]

    def _grouped(self, keys: Sequence[Tensor]) -> GroupedKeys:
        ordered = self._tensors.ordered(keys)
        sizes = torch.tensor([part.numel() for part in ordered])
        return GroupedKeys(self._tensors, torch.cat(ordered).cpu(), sizes)

    def _for_each(self, work: Callable[..., R], *given: Sequence[Any]) -> list[R]:
        """Do the work for each shard, in several threads if the scores are products on the CPU."""
        calls = [
            (scorer, shard.numel, *rest)
            for scorer, shard, *rest in zip(self._scorers, self._shards, self._kept, *given, strict=True)
        ]
        # A method may have no state for an empty shard, such as moments, and then no product.
        owned = [scorer for scorer, shard in zip(self._scorers, self._shards, strict=True) if shard.numel]
        products = [scorer.product for scorer in owned if scorer.product is not None]
        if len(products) < len(owned):
            return [work(*arguments) for arguments in calls]
        return in_threads(work, calls, [tensor for product in products for tensor in product.tensors])
