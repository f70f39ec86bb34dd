"""Guess a narrow range of keys around the threshold of each group, by a search in a sample of the weights.

The selection does not depend on the sample; only its duration does.
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
"""First and last key of a range."""

DEVIATIONS = 4
"""Width of a bracket, in standard deviations of the sample's quantile: about one miss in ten thousand mask updates."""


def guess_brackets(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
) -> list[Bracket]:
    """Return a bracket for each group, which contains its threshold almost always.

    Collective: every rank must call this. The arguments are those of `dsprune.selection.select`.
    """
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
    """Return the keys of every `stride`-th weight of the group, as far as this rank owns them."""
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
    """Return the distance of sampled weights, for which sample and bracket have about the same size.

    It is odd, so that the sample covers many columns of matrices, whose widths contain large powers of two.
    """
    return int(round(group.num_weights ** (1 / 3)) | 1)


def _sample_ranks(group: Group) -> tuple[int, int]:
    """Return the ranks in the sample, from 1, between which the threshold lies; they may be outside the sample."""
    size = ceil(group.num_weights / _stride(group))
    quantile = group.num_pruned / group.num_weights
    margin = DEVIATIONS * sqrt(size * quantile * (1 - quantile)) + 1
    return floor(quantile * size - margin), ceil(quantile * size + margin)


def _bracket(group: Group, ranks: tuple[int, int], low: int, high: int) -> Bracket:
    """Return the range between two keys of the sample, unbounded where their rank is outside the sample."""
    first, last = ranks
    if first < 1:
        low = LOWEST_KEY
    if last > ceil(group.num_weights / _stride(group)):
        high = HIGHEST_KEY
    return max(low, LOWEST_KEY), min(max(high, LOWEST_KEY), HIGHEST_KEY)
