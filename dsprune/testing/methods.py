"""Checks that hold for every pruning method. A test of a method of your own calls `check_method(MyMethod())`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.methods.method import Method, ShardContext
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import make_groups
from dsprune.selection.scan import Scorer
from dsprune.testing.dense import cut_randomly, join, packed_parts, select_dense
from dsprune.testing.pool import RankPool

__all__ = ["check_method", "check_parts", "check_selection", "check_shards", "random_context"]

TENSORS = [PrunableTensor(f"layer.{place}.weight", shape) for place, shape in enumerate([(50, 20), (7, 11)])]


def random_context(tensor: PrunableTensor = TENSORS[0], seed: int = 0, step: int = 0) -> ShardContext:
    """Return a whole tensor with random weights, gradients and Adam moments, the same each time."""
    generator = torch.Generator().manual_seed(7)
    weight, gradient, exp_avg, exp_avg_sq = torch.randn(4, tensor.numel, generator=generator)
    state = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq.square()}
    return ShardContext(tensor, range(tensor.numel), weight, gradient, state, seed, step)


def check_method(method: Method, pool: RankPool | None = None) -> None:
    """Check all that a method must keep.

    Args:
        method: the method.
        pool: ranks to select on; None = one process only.
    """
    check_parts(method)
    check_shards(method)
    check_selection(method, pool)


def check_parts(method: Method) -> None:
    """Check that scores are float32, one a weight, and that a part of the weights has its part of the scores."""
    context = random_context()
    scores = method.scores(context)
    assert scores.dtype == torch.float32, f"scores are {scores.dtype}, not float32"
    assert scores.shape == context.weight.shape, f"scores are {tuple(scores.shape)}, not one a weight"
    assert not scores.isnan().any(), "scores are NaN"
    for part in (slice(0, 1000), slice(3, 500), slice(999, 1000), slice(5, 1000, 7), slice(4, 4)):
        assert torch.equal(method.scores(context[part]), scores[part]), f"{part} is scored differently alone"


def check_shards(method: Method, worlds: Sequence[int] = (1, 2, 3, 4)) -> None:
    """Check that the scores of shards, cut anywhere, are those of the whole tensors."""
    for world in worlds:
        for shards in cut_randomly(TENSORS, world, seed=world):
            for shard in shards:
                whole = method.scores(random_context(shard.tensor))
                found = method.scores(_part(shard))
                assert torch.equal(found, whole[shard.start : shard.start + shard.numel]), shard


def check_selection(method: Method, pool: RankPool | None = None) -> None:
    """Check that the masks of any number of ranks are those of a sort of all scores in one process."""
    whole = [method.scores(random_context(tensor)) for tensor in TENSORS]
    scores = [score.abs() if method.absolute else score for score in whole]
    dense = [torch.ones(tensor.numel, dtype=torch.bool) for tensor in TENSORS]
    expected = select_dense(scores, dense, make_groups(TENSORS, [0.7] * len(TENSORS)))
    for world in range(1, 1 + (pool.size if pool else 1)):
        ranks = cut_randomly(TENSORS, world, seed=world)
        bits = pool.run(world, _select, method, ranks) if pool else [_select(Comm(), method, ranks)]
        assert all(map(torch.equal, join(ranks, bits), expected)), f"{world} ranks select other weights"


def _part(shard: Shard) -> ShardContext:
    return random_context(shard.tensor)[shard.start : shard.start + shard.numel]


def _select(comm: Comm, method: Method, ranks: Sequence[Sequence[Shard]]) -> list[Tensor]:
    shards = ranks[comm.rank]
    scorers = [_scorer(method, _part(shard)) for shard in shards]
    dense = [torch.ones(shard.tensor.numel, dtype=torch.bool) for shard in shards]
    groups = make_groups(TENSORS, [0.7] * len(TENSORS))
    return select(shards, scorers, packed_parts(dense, shards), groups, comm)


def _scorer(method: Method, context: ShardContext) -> Scorer:
    return Scorer(lambda part: method.scores(context[part]), method.absolute)
