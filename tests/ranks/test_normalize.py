"""Normalised scores have root mean square 1, and are the same bits for every sharding."""

from collections.abc import Iterator, Sequence
from math import inf, nan

import pytest
import torch
from torch import Tensor

from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import make_groups
from dsprune.selection.normalize import normalize
from dsprune.selection.traffic import update_bytes
from dsprune.testing.methods import cut_randomly, part_of, scorers_of
from dsprune.testing.pool import RankPool

TENSORS = [PrunableTensor(name, (size,)) for name, size in (("a", 10_007), ("b", 300), ("c", 5))]


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(3) as ranks:
        yield ranks


def scores_of_different_scale() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    scales = (1e-20, 3.0, 1e30)
    return [torch.randn(t.numel, generator=generator) * s for t, s in zip(TENSORS, scales, strict=True)]


def normalize_shards(
    comm: Comm, ranks: Sequence[Sequence[Shard]], scores: Sequence[Tensor]
) -> tuple[list[Tensor], int]:
    shards = ranks[comm.rank]
    scaled = normalize(shards, scorers_of(scores, shards), "cpu", comm)
    values = [scorer.values(slice(0, shard.numel)) for scorer, shard in zip(scaled, shards, strict=True)]
    return values, comm.bytes_sent


def alone(scores: Sequence[Tensor]) -> list[Tensor]:
    return normalize_shards(Comm(), [[Shard(tensor, 0, tensor.numel) for tensor in TENSORS]], scores)[0]


def test_the_root_mean_square_is_one() -> None:
    for scaled, scores in zip(alone(scores_of_different_scale()), scores_of_different_scale(), strict=True):
        assert float(scaled.double().square().mean()) == pytest.approx(1, rel=1e-3)
        assert torch.equal(scaled.argsort(), scores.argsort())


@pytest.mark.parametrize("odd", [0.0, inf, nan])
def test_what_has_no_scale_is_left_alone(odd: float) -> None:
    scores = scores_of_different_scale()
    scores[1] = torch.full((300,), odd)
    assert torch.equal(alone(scores)[1].nan_to_num(), scores[1].nan_to_num())


@pytest.mark.parametrize("world", [2, 3])
def test_the_sharding_does_not_matter(pool: RankPool, world: int) -> None:
    scores = scores_of_different_scale()
    expected = alone(scores)
    for seed in range(3):
        ranks = cut_randomly(TENSORS, world, seed)
        results = pool.run(world, normalize_shards, ranks, scores)
        groups = make_groups(TENSORS, [0.9] * 3)
        scales = update_bytes(groups, world, normalized=True) - update_bytes(groups, world)
        assert [sent for _, sent in results] == [scales] * world
        for shards, (parts, _) in zip(ranks, results, strict=True):
            for shard, part, whole in zip(shards, parts, expected, strict=True):
                assert torch.equal(part, part_of(whole, shard))
