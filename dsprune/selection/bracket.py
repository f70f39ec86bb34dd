"""Guess a narrow range of keys around the threshold of each group from a sample of the weights.

The sample changes only the duration of the selection, not its result.
"""

from collections.abc import Sequence
from math import ceil, floor, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.local import Bracket, LocalScores
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, NAN_KEY, PRUNED_KEY
from dsprune.selection.search import Search, is_found, narrow

__all__ = ["guess_brackets"]

MISSES = 1e-4
"""Fraction of the mask updates in which a bracket misses its threshold, for any number of groups."""

SLACK = 2
"""Largest ratio of the keys in a bracket to the keys needed: a few more keys cost less than another round."""


def guess_brackets(scores: LocalScores, groups: Sequence[Group], comm: Comm) -> list[Bracket]:
    """Return a bracket for each group, which almost always contains its threshold.

    Collective: every rank must call this. The arguments are those of `dsprune.selection.select`.
    """
    deviations = NormalDist().inv_cdf(1 - MISSES / 2 / len(groups))
    ranks = [_sample_ranks(group, deviations) for group in groups]
    needed = torch.tensor([last - first + 1 for first, last in ranks])
    targets = torch.tensor([first for first, _ in ranks] + [last for _, last in ranks])
    sizes = torch.tensor([group.sample_size for group in groups] * 2)
    ranges = [(PRUNED_KEY, NAN_KEY)] * len(targets)
    start = Search.start(ranges, torch.zeros_like(targets), sizes, targets)
    found = narrow(start, scores.sample, comm, lambda search: is_found(search) or _is_tight(search, needed))
    low = found.low[: len(groups)].tolist()
    high = (found.low + (1 << found.bits) - 1)[len(groups) :].tolist()
    return [_bracket(*ends) for ends in zip(groups, ranks, low, high, strict=True)]


def _is_tight(search: Search, needed: Tensor) -> bool:
    """Return whether every bracket holds only a few more sampled keys than `needed`."""
    below, _ = search.num_below.split(len(needed))
    _, up_to = (search.num_below + search.num_inside).split(len(needed))
    return bool((up_to - below <= SLACK * needed).all())


def _sample_ranks(group: Group, deviations: float) -> tuple[int, int]:
    """Return the ranks in the sample, from 1, on both sides of the threshold; they may be outside the sample.

    Args:
        group: the group.
        deviations: their distance from the quantile, in standard deviations.
    """
    size, quantile = group.sample_size, group.num_pruned / group.num_weights
    margin = deviations * sqrt(size * quantile * (1 - quantile)) + 1
    return floor(quantile * size - margin), ceil(quantile * size + margin)


def _bracket(group: Group, ranks: tuple[int, int], low: int, high: int) -> Bracket:
    """Return the range between two keys of the sample, unbounded where their rank is outside the sample."""
    first, last = ranks
    if first < 1:
        low = LOWEST_KEY
    if last > group.sample_size:
        high = HIGHEST_KEY
    return max(low, LOWEST_KEY), min(max(high, LOWEST_KEY), HIGHEST_KEY)
