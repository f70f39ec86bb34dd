"""Checks that hold for every pruning method. A test of a method of your own calls `check_method(MyMethod())`.

The oracle of the distributed selection is the selection on whole tensors in one process.
"""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from dsprune.masks.bits import pack, unpack
from dsprune.methods.method import Method, ShardContext
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.scan import Scorer
from dsprune.testing.pool import RankPool

__all__ = ["check_method", "check_parts", "check_selection", "check_shards"]

TENSORS = [PrunableTensor(f"layer.{place}.weight", shape) for place, shape in enumerate([(50, 20), (7, 11)])]


def select_dense(scores: Sequence[Tensor], kept: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """Return the new boolean masks: a stable sort of all weights of a group, already pruned weights first.

    Args:
        scores: by tensor, flat; the lowest are pruned.
        kept: the present masks, True = kept.
        groups: the weights that compete, and how many of them are to be pruned.
    """
    new = [torch.ones_like(mask) for mask in kept]
    for group in groups:
        values = torch.cat([scores[place].double() for place in group.tensors])
        alive = torch.cat([kept[place] for place in group.tensors])
        order = values.argsort(stable=True)
        order = torch.cat([order[~alive[order]], order[alive[order]]])
        mask = torch.ones_like(alive)
        mask[order[: group.num_pruned]] = False
        sizes = [scores[place].numel() for place in group.tensors]
        for place, part in zip(group.tensors, mask.split(sizes), strict=True):
            new[place] = part
    return new


def cut_randomly(tensors: Sequence[PrunableTensor], world: int, seed: int) -> list[list[Shard]]:
    """Return the shards of each rank: cut at any element, given to ranks out of order, some of them empty."""
    random = Random(seed)
    ranks: list[list[Shard]] = [[] for _ in range(world)]
    for tensor in tensors:
        cuts = sorted(
            random.choice([0, tensor.numel, random.randint(0, tensor.numel)]) for _ in range(world - 1)
        )
        owners = random.sample(range(world), world)
        for owner, start, stop in zip(owners, [0, *cuts], [*cuts, tensor.numel], strict=True):
            ranks[owner].append(Shard(tensor, start, stop - start))
    return ranks


def part_of(full: Tensor, shard: Shard) -> Tensor:
    """Return the part of a whole flat tensor that a shard holds."""
    return full[shard.start : shard.start + shard.numel]


def packed_parts(full: Sequence[Tensor], shards: Sequence[Shard]) -> list[Tensor]:
    """Return the packed masks of shards from whole boolean masks."""
    return [pack(part_of(mask, shard)) for mask, shard in zip(full, shards, strict=True)]


def join(ranks: Sequence[Sequence[Shard]], bits: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the whole boolean masks from the packed ones of every rank's shards."""
    full = [torch.zeros(shard.tensor.numel, dtype=torch.bool) for shard in ranks[0]]
    for shards, masks in zip(ranks, bits, strict=True):
        for place, (shard, mask) in enumerate(zip(shards, masks, strict=True)):
            part_of(full[place], shard).copy_(unpack(mask, shard.numel))
    return full


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
