"""Normalize scores by their tensor's root mean square, so that tensors of different scale are comparable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.scan import Scorer, parts

__all__ = ["normalize"]

STEPS = 1 << 15
"""Number of steps between 0 and a tensor's largest score; the sum over 2**33 weights does not overflow."""


def normalize(
    shards: Sequence[Shard], scorers: Sequence[Scorer], device: torch.device | str, comm: Comm
) -> list[Scorer]:
    """Divide the scores of each tensor by their root mean square. Collective: every rank must call this.

    A sum of floats depends on its order, and therefore on the sharding. So scores are rounded to multiples of the
    tensor's largest score divided by `STEPS`, and the squares of these integers are summed exactly.

    Args:
        shards: this rank's shard of every tensor, in global order.
        scorers: the scores of each shard.
        device: device of the scores.
        comm: the ranks over which the tensors are sharded.
    """
    largest = torch.zeros(len(shards), dtype=torch.float64)
    for place, scores in _scores(shards, scorers, device):
        largest[place] = torch.maximum(largest[place], scores.abs().max().double().cpu())
    largest = comm.all_reduce_max(largest.nan_to_num(nan=inf, posinf=inf))

    squares = torch.zeros(len(shards), dtype=torch.int64)
    for place, scores in _scores(shards, scorers, device):
        squares[place] += _sum_of_squares(scores, float(largest[place]))
    squares = comm.all_reduce_sum(squares)
    return [
        _scaled(scorer, _factor(float(top), int(total), shard.tensor.numel))
        for shard, scorer, top, total in zip(shards, scorers, largest, squares, strict=True)
    ]


def _scores(
    shards: Sequence[Shard], scorers: Sequence[Scorer], device: torch.device | str
) -> Iterator[tuple[int, Tensor]]:
    """Yield the scores of each shard, a part at a time, with the place of its tensor."""
    for place, (shard, scorer) in enumerate(zip(shards, scorers, strict=True)):
        for part in parts(shard.numel, torch.device(device)):
            yield place, scorer.values(part)


def _sum_of_squares(scores: Tensor, largest: float) -> int:
    """Return the sum in units of `(largest / STEPS)**2`; 0 if `largest` is 0 or inf (its value if there is a NaN)."""
    if largest == 0 or not isfinite(largest):
        return 0
    return int((scores.double() * (STEPS / largest)).round().long().square().sum())


def _factor(largest: float, squares: int, numel: int) -> float:
    """Return the reciprocal of the root mean square, at most the largest float32."""
    root = largest / STEPS * sqrt(squares / numel) if squares else 1.0
    return min(1 / root, torch.finfo(torch.float32).max)


def _scaled(scorer: Scorer, factor: float) -> Scorer:
    product = None if scorer.product is None else replace(scorer.product, scale=factor)
    return Scorer(lambda part: scorer.values(part) * factor, scorer.absolute, product)
