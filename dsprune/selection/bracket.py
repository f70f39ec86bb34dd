"""Guesses a narrow range of keys that holds each group's threshold, by a search in a sample of the weights.

What is selected never depends on the sample; only how long it takes does.
"""

from collections.abc import Sequence
from math import ceil, floor, sqrt

import torch
from torch import Tensor

from dsprune.masks.bits import pick
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, NAN_KEY, PRUNED_KEY, Scorer, to_keys
from dsprune.selection.search import Search, narrow

__all__ = ["Bracket", "guess_brackets"]

Bracket = tuple[int, int]
"""The first and the last key of a range."""


DEVIATIONS = 4  # standard deviations of the sample's quantile: misses once in ten thousand mask updates


def guess_brackets(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
) -> list[Bracket]:
    """Collective: every rank must call this."""
    samples = [_sample(shards, scorers, kept, group) for group in groups]
    ranks = [_sample_ranks(group) for group in groups]
    targets = torch.tensor([first for first, _ in ranks] + [last for _, last in ranks])
    ranges = [(PRUNED_KEY, NAN_KEY)] * len(targets)
    search = Search.start(ranges, torch.zeros_like(targets), targets)
    found = narrow(search, samples + samples, comm).low.split(len(groups))
    return [
        _bracket(group, rank, int(low), int(high))
        for group, rank, low, high in zip(groups, ranks, *found, strict=True)
    ]


def _sample(
    shards: Sequence[Shard], scorers: Sequence[Scorer], kept: Sequence[Tensor], group: Group
) -> Tensor:
    """The keys that this rank owns of every `stride`-th weight of the group, whoever owns the others."""
    stride = _stride(group)
    offset = 0  # of the tensor in the group
    keys = []
    for place in group.tensors:
        shard = shards[place]
        part = slice(-(offset + shard.start) % stride, shard.numel, stride)
        if part.start < shard.numel:
            values, mask = scorers[place].values(part), pick(kept[place], part, shard.numel)
            keys.append(to_keys(values, scorers[place].absolute, mask))
        offset += shard.tensor.numel
    return torch.cat(keys) if keys else torch.empty(0, dtype=torch.int32)


def _stride(group: Group) -> int:
    """Such that the sample is about as large as the bracket it leaves.

    Odd, so that it visits many columns of a matrix, whose number has large powers of two in it.
    """
    return round(group.num_weights ** (1 / 3)) | 1


def _sample_ranks(group: Group) -> tuple[int, int]:
    """Ranks in the sample, from 1, between which the threshold lies; they may be out of its range."""
    size = ceil(group.num_weights / _stride(group))
    quantile = group.num_pruned / group.num_weights
    margin = DEVIATIONS * sqrt(size * quantile * (1 - quantile)) + 1
    return floor(quantile * size - margin), ceil(quantile * size + margin)


def _bracket(group: Group, ranks: tuple[int, int], low: int, high: int) -> Bracket:
    """The range between two keys of the sample, open where their rank is out of its range."""
    first, last = ranks
    if first < 1:
        low = LOWEST_KEY
    if last > ceil(group.num_weights / _stride(group)):
        high = HIGHEST_KEY
    return max(low, LOWEST_KEY), min(max(high, LOWEST_KEY), HIGHEST_KEY)
