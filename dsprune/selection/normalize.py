"""Scores in units of their tensor's root mean square, so that tensors of different scale compete fairly."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.scan import Scorer, parts

__all__ = ["normalized"]

STEPS = 1 << 15  # between 0 and a tensor's largest score; squares of 2**33 weights add up without overflow


def normalized(
    shards: Sequence[Shard], scorers: Sequence[Scorer], device: torch.device | str, comm: Comm
) -> list[Scorer]:
    """Divides the scores of each tensor by their root mean square. Collective: every rank must call this.

    A sum of floats depends on its order, and so on the sharding. This one does not: scores are rounded to
    `STEPS` steps of the tensor's largest, and the squares of these integers are summed exactly.
    """
    largest = torch.zeros(len(shards), dtype=torch.float64)
    for place, (shard, scorer) in enumerate(zip(shards, scorers, strict=True)):
        for part in parts(shard.numel, torch.device(device)):
            largest[place] = torch.maximum(largest[place], scorer.values(part).abs().max().double().cpu())
    largest = comm.all_gather(largest).amax(dim=0)

    squares = torch.zeros(len(shards), dtype=torch.int64)
    for place, (shard, scorer) in enumerate(zip(shards, scorers, strict=True)):
        for part in parts(shard.numel, torch.device(device)):
            squares[place] += _sum_of_squares(scorer.values(part), float(largest[place]))
    squares = comm.all_reduce_sum(squares)
    return [
        _scaled(scorer, _factor(float(top), int(total), shard.tensor.numel))
        for shard, scorer, top, total in zip(shards, scorers, largest, squares, strict=True)
    ]


def _sum_of_squares(scores: Tensor, largest: float) -> int:
    """In units of `(largest / STEPS)**2`; 0 if that is no scale (NaN is refused by selection later)."""
    if largest == 0 or not isfinite(largest):
        return 0
    return int((scores.double() * (STEPS / largest)).round().long().square().sum())


def _factor(largest: float, squares: int, numel: int) -> float:
    """One over the root mean square, as far as float32 goes."""
    root = largest / STEPS * sqrt(squares / numel) if squares else 1.0
    return min(1 / root, torch.finfo(torch.float32).max)


def _scaled(scorer: Scorer, factor: float) -> Scorer:
    return Scorer(lambda part: scorer.values(part) * factor, scorer.absolute)
