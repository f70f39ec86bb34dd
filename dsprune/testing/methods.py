"""Checks for every pruning method. A test of your own method calls `check_method(MyMethod())`.

The oracle of the distributed selection is the selection on whole tensors in one process.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from dsprune.kernels.block_products import products
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.bits import pack, unpack
from dsprune.masks.cut_bands import CutBands
from dsprune.methods.method import Accumulator, CompensatingMethod, Method, RegrowingMethod, ShardContext
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.compensate import Blocks, select_compensating
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.regrow import select_regrowing
from dsprune.selection.scan import Scorer
from dsprune.testing.pool import RankPool

__all__ = ["check_method", "check_parts", "check_selection", "check_shards"]

TENSORS = [PrunableTensor(f"layer.{place}.weight", shape) for place, shape in enumerate([(50, 20), (7, 11)])]
SPARSITY, DROP = 0.7, 0.3

Compute = Callable[[ShardContext], Tensor]


def select_dense(scores: Sequence[Tensor], kept: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """Return the new boolean masks by a stable sort of all weights of a group, with pruned weights first.

    Args:
        scores: by tensor, flat; the lowest are pruned.
        kept: the present masks, True = kept.
        groups: the groups of tensors, with their numbers of zeros.
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


def regrow_dense(
    scores: Sequence[Tensor],
    growth: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    fraction: float,
) -> list[Tensor]:
    """Return the new boolean masks of a method that lets weights grow back; arguments as for `select_dense`.

    Args:
        scores: the lowest are dropped.
        growth: by tensor, flat; of the pruned weights, the highest grow back.
        kept: the present masks.
        groups: the groups of tensors, with their final numbers of zeros.
        fraction: fraction of the kept weights to drop in addition and to grow back.
    """
    new = list(kept)
    for group in groups:
        number = round(fraction * (group.num_weights - group.num_pruned))
        dropping = [replace(group, num_pruned=group.num_pruned + number)]
        left = torch.cat([select_dense(scores, kept, dropping)[place] for place in group.tensors])
        pruned = (~left).nonzero().view(-1)
        order = torch.cat([growth[place].double() for place in group.tensors])[pruned].argsort(stable=True)
        left[pruned[order[pruned.numel() - number :]]] = True
        sizes = [scores[place].numel() for place in group.tensors]
        for place, part in zip(group.tensors, left.split(sizes), strict=True):
            new[place] = part
    return new


def cut_randomly(tensors: Sequence[PrunableTensor], world: int, seed: int) -> list[list[Shard]]:
    """Return random shards of each rank: cut at any element, in any order of the ranks, some of them empty."""
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


def scorers_of(full: Sequence[Tensor], shards: Sequence[Shard]) -> list[Scorer]:
    """Return the scorers of shards from whole flat scores."""
    return [Scorer(part_of(scores, shard).__getitem__) for scores, shard in zip(full, shards, strict=True)]


def join(ranks: Sequence[Sequence[Shard]], bits: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the whole boolean masks from the packed ones of every rank's shards."""
    full = [torch.zeros(shard.tensor.numel, dtype=torch.bool) for shard in ranks[0]]
    for shards, masks in zip(ranks, bits, strict=True):
        for place, (shard, mask) in enumerate(zip(shards, masks, strict=True)):
            part_of(full[place], shard).copy_(unpack(mask, shard.numel))
    return full


def random_context(tensor: PrunableTensor = TENSORS[0], *, method: Method | None = None) -> ShardContext:
    """Return a whole tensor with random weights, gradients and Adam moments, from a fixed seed.

    With a method, also with its accumulators after one step.
    """
    generator = torch.Generator().manual_seed(7)
    weight, gradient, exp_avg, exp_avg_sq = torch.randn(4, tensor.numel, generator=generator)
    state = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq.square()}
    inputs = torch.rand(tensor.num_inputs, generator=generator)
    context = ShardContext(tensor, range(tensor.numel), weight, gradient, state, 0, 0, inputs=inputs)
    if method is None or not method.accumulators:
        return context
    zeros = {
        kept.name: torch.zeros(kept.shape(tensor.numel), dtype=kept.dtype) for kept in method.accumulators
    }
    added = method.increments(replace(context, accumulators=zeros))
    sums = {kept.name: _sum_of_one_step(kept, added[kept.name]) for kept in method.accumulators}
    return replace(context, accumulators=sums, kept=_present([tensor])[0])


def _sum_of_one_step(kept: Accumulator, added: Tensor) -> Tensor:
    return (added if kept.block == 1 else products(added, kept.block)).to(kept.dtype)


def check_method(method: Method, pool: RankPool | None = None) -> None:
    """Check all requirements of a method.

    Args:
        method: the method.
        pool: ranks to select on; None = only one process.
    """
    check_parts(method)
    check_shards(method)
    check_selection(method, pool)


def check_parts(method: Method) -> None:
    """Check that each weight has one result, that scores are float32, and that parts have the results of the whole."""
    context, block = random_context(method=method), method.block
    slices: tuple[slice, ...] = (
        slice(0, 1000),
        slice(3, 500),
        slice(999, 1000),
        slice(5, 1000, 7),
        slice(4, 4),
    )
    if block > 1:
        slices = (
            slice(0, 1000),
            slice(0, block),
            slice(3 * block, 5 * block),
            slice(1000 // block * block, 1000),
        )
    for what, compute in _results(method).items():
        whole = compute(context)
        assert what in _kept(method) or whole.dtype == torch.float32, f"{what} are {whole.dtype}, not float32"
        assert whole.shape == context.weight.shape, f"{what} are {tuple(whole.shape)}, not one a weight"
        assert not whole.isnan().any(), f"{what} are NaN"
        for part in slices:
            found = compute(context[part])
            assert torch.equal(found, whole[part]), f"{what} of {part} are others alone"
    product = method.product(context)
    assert product is None or torch.equal(product.values(), method.scores(context)), "product: not the scores"


def check_shards(method: Method, worlds: Sequence[int] = (1, 2, 3, 4)) -> None:
    """Check that the results for any shards equal those for whole tensors.

    The blocks of a method with a `block` are never cut: ranks complete them.
    """
    for world in worlds if method.block == 1 else ():
        for shards in cut_randomly(TENSORS, world, seed=world):
            for shard in shards:
                for compute in _results(method).values():
                    whole = compute(random_context(shard.tensor, method=method))
                    found = compute(_part(shard, method))
                    assert torch.equal(found, part_of(whole, shard)), shard


def check_selection(method: Method, pool: RankPool | None = None) -> None:
    """Check that the masks of any number of ranks equal those of a sort of all scores in one process."""
    results = _results(method)
    scores = _ordered(method, results["scores"])
    groups, kept = make_groups(TENSORS, [SPARSITY] * len(TENSORS)), _present(TENSORS)
    expected = select_dense(scores, kept, groups)
    if isinstance(method, RegrowingMethod):
        growth = _ordered(method, results["growth scores"])
        expected = regrow_dense(scores, growth, kept, groups, DROP)
        assert any((new & ~old).any() for new, old in zip(expected, kept, strict=True)), "nothing grows back"
    for world in range(1, 1 + (pool.size if pool else 1)):
        ranks = cut_randomly(TENSORS, world, seed=world)
        found = pool.run(world, _select, method, ranks) if pool else [_select(Comm(), method, ranks)]
        bits, moved = zip(*found, strict=True)
        assert all(map(torch.equal, join(ranks, bits), expected)), f"{world} ranks select other weights"
        if isinstance(method, CompensatingMethod):
            _check_moved(method, expected, ranks, moved)


def _check_moved(
    method: CompensatingMethod, kept: Sequence[Tensor], ranks: Sequence[Sequence[Shard]], moved: Sequence[Any]
) -> None:
    """Check that the new weights of all ranks equal those that one process computes from whole tensors."""
    for tensor, mask in zip(TENSORS, kept, strict=True):
        whole = method.compensate(replace(random_context(tensor, method=method), kept=mask))
        for shards, weights in zip(ranks, moved, strict=True):
            [(shard, found)] = [
                pair for pair in zip(shards, weights, strict=True) if pair[0].tensor == tensor
            ]
            assert torch.equal(found, part_of(whole, shard)), f"{shard}: weights move otherwise"


def _results(method: Method) -> dict[str, Compute]:
    """Return all results of a method, by name."""
    growth = {"growth scores": method.growth_scores} if isinstance(method, RegrowingMethod) else {}
    moves = {"new weights": method.compensate} if isinstance(method, CompensatingMethod) else {}
    added = {name: lambda context, name=name: method.increments(context)[name] for name in _kept(method)}
    return {"scores": method.scores, **growth, **moves, **added}


def _kept(method: Method) -> list[str]:
    return [kept.name for kept in method.accumulators]


def _ordered(method: Method, compute: Compute) -> list[Tensor]:
    """Return the scores of whole tensors, as absolute values if the method orders them so."""
    whole = [compute(random_context(tensor, method=method)) for tensor in TENSORS]
    return [score.abs() for score in whole] if method.absolute else whole


def _present(tensors: Sequence[PrunableTensor]) -> list[Tensor]:
    """Return masks that prune every third weight."""
    return [torch.arange(tensor.numel) % 3 > 0 for tensor in tensors]


def _part(shard: Shard, method: Method) -> ShardContext:
    return random_context(shard.tensor, method=method)[shard.start : shard.start + shard.numel]


def _select(
    comm: Comm, method: Method, ranks: Sequence[Sequence[Shard]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the packed masks, and the new weights of a method that updates them."""
    shards = ranks[comm.rank]
    contexts = [_part(shard, method) for shard in shards]
    kept = packed_parts(_present([shard.tensor for shard in shards]), shards)
    groups = make_groups(TENSORS, [SPARSITY] * len(TENSORS))
    if isinstance(method, CompensatingMethod):
        blocks = Blocks(_accumulated(comm, method, shards), lambda place: contexts[place].weight, {})
        return select_compensating(method, blocks, kept, groups, comm)
    scorers = [
        replace(_scorer(method.scores, method.absolute, context), product=method.product(context))
        for context in contexts
    ]
    if not isinstance(method, RegrowingMethod):
        return select(shards, scorers, kept, groups, comm), []
    growth = [_scorer(method.growth_scores, method.absolute, context) for context in contexts]
    return select_regrowing(shards, scorers, growth, kept, groups, DROP, comm), []


def _accumulated(comm: Comm, method: Method, shards: Sequence[Shard]) -> AccumulatorSet:
    """Return a method's accumulators of shards after one step."""
    cut_blocks = CutBands(shards, [method.block] * len(shards), comm)
    kept = AccumulatorSet(shards, method.accumulators, cut_blocks=cut_blocks)
    for index, shard in enumerate(shards):
        kept.stage(index, slice(0, shard.numel), method.increments(_part(shard, method)))
    kept.finish_staging()
    return kept


def _scorer(compute: Compute, absolute: bool, context: ShardContext) -> Scorer:
    return Scorer(lambda part: compute(context[part]), absolute)
