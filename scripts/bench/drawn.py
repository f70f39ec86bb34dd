"""The counts of simulated ranks, drawn so that finer histograms agree with coarser ones."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.selection.groups import Group
from dsprune.selection.local import Bracket, Counts
from dsprune.selection.scan import NAN_KEY, PRUNED_KEY
from dsprune.selection.search import BINS, Search

__all__ = ["DrawnScores", "deviation"]


def deviation(place: int) -> float:
    """Return the standard deviation of a tensor's weights; tensors differ, as in trained models."""
    return 0.02 * (1 + place * 7 % 10 / 10)


class DrawnScores:
    """The counts of simulated ranks: see `dsprune.selection.local.LocalScores`.

    Args:
        shards: the weights of these ranks together, one shard per tensor.
        groups: the groups of tensors.
        seed: seed of the draws.
    """

    def __init__(self, shards: Sequence[Shard], groups: Sequence[Group], seed: int) -> None:
        self._shards, self._groups, self._random = shards, groups, np.random.default_rng(seed)
        numbers = [np.array([shards[place].numel for place in group.tensors]) for group in groups]
        self._numels = numbers
        whole = (PRUNED_KEY, NAN_KEY)
        samples = [numel // group.stride for numel, group in zip(numbers, groups, strict=True)]
        self._samples = [
            self._counts(group, size, whole) for group, size in zip(groups, samples, strict=True)
        ]
        self._below: list[np.ndarray] = []
        self._inside: list[DrawnCounts] = []

    def sample(self, search: Search) -> Tensor:
        """Draw the histograms of the sample."""
        return drawn_histograms(self._samples + self._samples, search)

    def scan(self, brackets: Sequence[Bracket]) -> Counts:
        """Draw how many keys are below and inside the brackets."""
        self._below, self._inside = [], []
        for group, numel, (low, high) in zip(self._groups, self._numels, brackets, strict=True):
            ends = below_keys(group, np.array([low, high + 1]))
            shares = np.column_stack([ends[:, 0], ends[:, 1] - ends[:, 0], 1 - ends[:, 1]])
            below, inside, _ = self._random.multinomial(numel, shares).T
            self._below.append(below)
            self._inside.append(self._counts(group, inside, (low, high)))
        num_below, num_inside = (
            torch.tensor([int(part.sum()) for part in parts])
            for parts in (self._below, [d.total for d in self._inside])
        )
        none = torch.zeros(len(self._groups), dtype=torch.int64)
        first = self.inside(Search.start(brackets, none, none, none))
        return Counts(torch.zeros(len(self._shards), dtype=torch.int64), num_below, num_inside, first)

    def collect(self, search: Search) -> None:
        """Do nothing: counts are drawn on demand."""

    def inside(self, search: Search) -> Tensor:
        """Draw the histograms of the keys inside the brackets."""
        return drawn_histograms(self._inside, search)

    def num_ties(self, thresholds: Sequence[int]) -> list[int]:
        """Return the drawn numbers of ties."""
        return self._of_shards(
            [self._inside[i].equal(thresholds[g.tensors[0]]) for i, g in enumerate(self._groups)]
        )

    def settle(self, thresholds: Sequence[int], shares: Sequence[int]) -> list[Tensor]:
        """Return the number of zeros of each shard instead of its mask."""
        lower = [
            below + inside.lower(thresholds[group.tensors[0]])
            for group, below, inside in zip(self._groups, self._below, self._inside, strict=True)
        ]
        return [torch.tensor(low + share) for low, share in zip(self._of_shards(lower), shares, strict=True)]

    def _counts(self, group: Group, total: np.ndarray, ends: Bracket) -> "DrawnCounts":
        return DrawnCounts(group, total, ends, self._random)

    def _of_shards(self, values: Sequence[np.ndarray]) -> list[int]:
        result = [0] * len(self._shards)
        for group, numbers in zip(self._groups, values, strict=True):
            for place, number in zip(group.tensors, numbers.tolist(), strict=True):
                result[place] = number
        return result


class DrawnCounts:
    """The counts of a group's keys, `[tensors]` per bin, which are drawn on first use.

    Args:
        group: the group.
        total: number of each tensor's keys.
        ends: first and last possible key.
        random: the source of the draws.
    """

    def __init__(self, group: Group, total: np.ndarray, ends: Bracket, random: np.random.Generator) -> None:
        self._group, self.total, self._ends, self._random = group, total, ends, random
        self._drawn: dict[tuple[int, int], np.ndarray] = {}  # by first key and log2 of the keys of a bin

    def histogram(self, low: int, bits: int, bin_bits: int) -> np.ndarray:
        """Return the counts of each tensor in `BINS` bins of the `2**bits` keys from `low`, `[tensors, BINS]`."""
        if (low, bin_bits) not in self._drawn:
            first, last = self._ends
            edges = np.clip(low + (np.arange(BINS + 1) << bin_bits), first, min(last + 1, low + (1 << bits)))
            shares = np.diff(below_keys(self._group, edges), axis=1)
            shares[shares.sum(axis=1) <= 0] = 1 / BINS  # of a range without keys
            shares /= shares.sum(axis=1, keepdims=True)
            self._drawn[low, bin_bits] = self._random.multinomial(self._parent(low), shares)
        return self._drawn[low, bin_bits]

    def equal(self, key: int) -> np.ndarray:
        """Return the number of each tensor's keys that equal this one, `[tensors]`."""
        low, bins = next(
            (low, bins) for (low, bits), bins in self._drawn.items() if bits == 0 and 0 <= key - low < BINS
        )
        return bins[:, key - low]

    def lower(self, key: int) -> np.ndarray:
        """Return the number of each tensor's keys below this one, `[tensors]`."""
        found = np.zeros_like(self.total)
        for (low, bits), bins in self._drawn.items():
            if 0 <= (place := key - low >> bits) < BINS:
                found += bins[:, :place].sum(axis=1)
        return found

    def _parent(self, low: int) -> np.ndarray:
        """Return the counts of the bin that starts at `low`, from the last histogram that has it."""
        for (first, bits), bins in reversed(self._drawn.items()):
            place, rest = divmod(low - first, 1 << bits)
            if rest == 0 and 0 <= place < BINS:
                return bins[:, place]
        return self.total


def drawn_histograms(counts: Sequence[DrawnCounts], search: Search) -> Tensor:
    """Return the histograms of the ranges of a search, over the tensors of each."""
    ranges = zip(search.low.tolist(), search.bits.tolist(), search.bin_bits().tolist(), strict=True)
    rows = [drawn.histogram(*start).sum(axis=0) for drawn, start in zip(counts, ranges, strict=True)]
    return torch.from_numpy(np.stack(rows))


def below_keys(group: Group, keys: np.ndarray) -> np.ndarray:
    """Return the fraction of each tensor's keys below each of `keys`, `[tensors, keys]`."""
    magnitudes = torch.from_numpy(np.clip(keys, 0, NAN_KEY).astype(np.int32)).view(torch.float32).double()
    magnitudes = magnitudes.nan_to_num(nan=torch.inf)
    deviations = torch.tensor([deviation(place) for place in group.tensors], dtype=torch.float64)
    shares: np.ndarray = torch.erf(magnitudes / (deviations.unsqueeze(1) * sqrt(2))).numpy()
    return shares
