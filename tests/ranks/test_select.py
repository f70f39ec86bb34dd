"""Selection equals a stable sort of the gathered scores, for every sharding, and sends the predicted bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, nan
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import Group, make_groups
from dsprune.selection.regrow import select_regrowing
from dsprune.selection.scan import Scorer
from dsprune.selection.traffic import update_bytes
from dsprune.testing.methods import cut_randomly, join, packed_parts, regrow_dense, scorers_of, select_dense
from dsprune.testing.pool import RankPool


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as ranks:
        yield ranks


def tensors_of(sizes: Sequence[int]) -> list[PrunableTensor]:
    return [PrunableTensor(f"layer.{place}.weight", (size,)) for place, size in enumerate(sizes)]


def normal(sizes: Sequence[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in sizes]


def all_kept(scores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.ones(score.numel(), dtype=torch.bool) for score in scores]


class Traffic(NamedTuple):
    sent: int
    received: int
    messages: int


def traffic(comm: Comm) -> Traffic:
    return Traffic(comm.bytes_sent, comm.bytes_received, comm.num_messages)


def run_select(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
) -> tuple[list[Tensor], Traffic]:
    shards, before = ranks[comm.rank], traffic(comm)
    new = select(shards, scorers_of(scores, shards), packed_parts(kept, shards), groups, comm)
    return new, Traffic(*(now - then for now, then in zip(traffic(comm), before, strict=True)))


def message_of_select(comm: Comm, *args: object) -> str:
    with pytest.raises(UserError) as refused:
        run_select(comm, *args)
    return str(refused.value)


def alone(scores: Sequence[Tensor], kept: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """The full masks that one rank selects, with no process group."""
    ranks = cut_randomly(tensors_of([score.numel() for score in scores]), 1, seed=0)
    new, _ = run_select(Comm(), ranks, scores, kept, groups)
    return join(ranks, [new])


def assert_equal(new: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for place, (mask, wanted) in enumerate(zip(new, expected, strict=True)):
        assert torch.equal(mask, wanted), f"tensor {place}"


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_selects_the_lowest_scores(sparsity: float, scope: str) -> None:
    scores = normal([1, 7, 8, 1000, 30_011])
    groups = make_groups(tensors_of([1, 7, 8, 1000, 30_011]), [sparsity] * 5, scope)
    new = alone(scores, all_kept(scores), groups)
    assert_equal(new, select_dense(scores, all_kept(scores), groups))


def test_absolute_scores_compete_by_magnitude() -> None:
    scores = normal([1000, 30_011])
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors_of([1000, 30_011])]
    scorers = [Scorer(score.__getitem__, absolute=True) for score in scores]
    groups = make_groups([shard.tensor for shard in shards], [0.9, 0.9])
    new = select(shards, scorers, packed_parts(all_kept(scores), shards), groups, Comm())
    magnitudes = [score.abs() for score in scores]
    assert_equal(join([shards], [new]), select_dense(magnitudes, all_kept(scores), groups))


@pytest.mark.parametrize(
    "values",
    [[0.0, -0.0], [1.0], [-1.0, 1.0, 2.0], [1e-45, 2e-45, 0.0, -1e-45], [inf, 3.4e38, -inf, 0.0]],
    ids=["zeros", "all equal", "few", "denormal", "infinite"],
)
def test_ties_and_odd_floats_go_in_global_order(values: list[float]) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.tensor(values)
    scores = [table[torch.randint(len(values), (size,), generator=generator)] for size in (1001, 3, 50_000)]
    for sparsity in (0.2, 0.5, 0.8):
        groups = make_groups(tensors_of([1001, 3, 50_000]), [sparsity] * 3)
        new = alone(scores, all_kept(scores), groups)
        assert_equal(new, select_dense(scores, all_kept(scores), groups))


def test_pruned_weights_stay_pruned() -> None:
    scores = normal([5000, 300])
    kept = [torch.rand(score.numel(), generator=torch.Generator().manual_seed(2)) > 0.6 for score in scores]
    num_pruned = sum(int((~mask).sum()) for mask in kept)
    for target in (num_pruned, num_pruned + 1, 4000, 5300):
        groups = [Group("all", (0, 1), 5300, target)]
        new = alone(scores, kept, groups)
        assert_equal(new, select_dense(scores, kept, groups))
        assert not any((mask & ~old).any() for mask, old in zip(new, kept, strict=True))


def test_a_nan_at_a_pruned_weight_is_no_score() -> None:
    scores = [torch.tensor([nan, 3.0, 1.0, 2.0])]
    kept = [torch.tensor([False, True, True, True])]
    [new] = alone(scores, kept, [Group("all", (0,), 4, 2)])
    assert new.tolist() == [False, True, False, True]


def test_more_pruned_weights_than_the_target_are_refused() -> None:
    scores = normal([10])
    kept = [torch.arange(10) > 5]
    with pytest.raises(
        UserError, match=r"encoder: 6 of 10 weights are pruned already, more than the 5 of this"
    ):
        alone(scores, kept, [Group("encoder", (0,), 10, 5)])


def test_a_bracket_that_misses_only_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample differs from the other scores, on both sides of the threshold."""
    size = 100_000
    stride = Group("all", (0,), size, 1).stride
    for sampled, others in ((5.0, 1.0), (1.0, 5.0)):
        scores = [others + torch.rand(size, generator=torch.Generator().manual_seed(3))]
        scores[0][::stride] = sampled
        groups = [Group("all", (0,), size, size // 2)]
        assert_equal(alone(scores, all_kept(scores), groups), select_dense(scores, all_kept(scores), groups))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_floats_any_masks_any_groups(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    floats = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0])
    scores = [torch.tensor(data.draw(st.lists(floats, min_size=n, max_size=n))) for n in sizes]
    kept = [torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in sizes]
    owner = [data.draw(st.integers(0, 1)) for _ in sizes]
    groups = []
    for label in sorted(set(owner)):
        places = tuple(place for place in range(len(sizes)) if owner[place] == label)
        total = sum(sizes[place] for place in places)
        least = sum(int((~kept[place]).sum()) for place in places)
        groups.append(Group(str(label), places, total, data.draw(st.integers(least, total))))
    assert_equal(alone(scores, kept, groups), select_dense(scores, kept, groups))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_the_sharding_does_not_matter(pool: RankPool, world: int, seed: int) -> None:
    sizes = [1, 13, 4096, 30_011, 257]
    tensors = tensors_of(sizes)
    scores = normal(sizes, seed)
    if seed % 2:  # many ties, at and around the threshold
        scores = [(score * 2).round() for score in scores]
    kept = all_kept(scores)
    if seed % 3:
        kept = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) > 0.3 for size in sizes]
        kept[0][:] = kept[1][:] = True
    groups = make_groups(tensors, [0.9, 0.5, 0.5, 0.9, 0.9], "uniform" if seed >= 4 else "global")
    ranks = cut_randomly(tensors, world, seed)
    results = pool.run(world, run_select, ranks, scores, kept, groups)
    assert_equal(join(ranks, [new for new, _ in results]), select_dense(scores, kept, groups))
    for _, counted in results:
        assert counted.sent == counted.received <= update_bytes(groups, world)
        assert counted.messages <= 10


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_a_rank_sends_and_receives_what_is_planned_at_most(pool: RankPool, scope: str) -> None:
    """Equal scores need every round: of the sample, of the threshold, which is far below, and of the ties."""
    sizes = [3000, 5000, 257]
    tensors, scores = tensors_of(sizes), [torch.ones(size) for size in sizes]
    groups = [replace(group, num_pruned=1) for group in make_groups(tensors, [0.5] * 3, scope)]
    for world in (1, 2, 3, 4):
        results = pool.run(
            world, run_select, cut_randomly(tensors, world, 0), scores, all_kept(scores), groups
        )
        most = update_bytes(groups, world)
        assert {(counted.sent, counted.received) for _, counted in results} == {(most, most)}


@pytest.mark.parametrize("world", [2, 4])
def test_ties_of_all_groups_are_divided_together(pool: RankPool, world: int) -> None:
    """Some groups prune none of their ties, some all, and the others a part of them."""
    sizes = [500] * 40
    tensors, scores = tensors_of(sizes), [torch.arange(500.0).div(50).floor() for _ in sizes]
    groups = [Group(str(place), (place,), 500, 10 * place) for place in range(40)]
    ranks = cut_randomly(tensors, world, seed=world)
    results = pool.run(world, run_select, ranks, scores, all_kept(scores), groups)
    assert_equal(join(ranks, [new for new, _ in results]), select_dense(scores, all_kept(scores), groups))


def run_regrowing(
    comm: Comm,
    ranks: Sequence[Sequence[Shard]],
    scores: Sequence[Tensor],
    growth: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    fraction: float,
) -> tuple[list[Tensor], Traffic]:
    shards, before = ranks[comm.rank], traffic(comm)
    scorers = scorers_of(scores, shards), scorers_of(growth, shards)
    new = select_regrowing(shards, *scorers, packed_parts(kept, shards), groups, fraction, comm)
    return new, Traffic(*(now - then for now, then in zip(traffic(comm), before, strict=True)))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_regrowth_conserves_the_count_on_any_number_of_ranks(pool: RankPool, world: int, seed: int) -> None:
    sizes = [1, 13, 4096, 30_011, 257]
    tensors = tensors_of(sizes)
    scores, growth = normal(sizes, seed), normal(sizes, seed + 100)
    if seed % 2:  # many ties, at and around the threshold
        scores, growth = ([(score * 2).round() for score in values] for values in (scores, growth))
    kept = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) > 0.4 for size in sizes]
    groups = make_groups(tensors, [0.5] * 5, "uniform" if seed >= 2 else "global")
    groups = [replace(group, num_pruned=group.num_pruned or 1) for group in groups]
    fraction = [0.3, 0.0, 0.001, 0.9][seed]
    ranks = cut_randomly(tensors, world, seed)
    if seed >= 2:
        # Exactly what is pruned afterwards, or less.
        kept = [torch.arange(size) >= size // 2 for size in sizes]
    results = pool.run(world, run_regrowing, ranks, scores, growth, kept, groups, fraction)
    new = join(ranks, [bits for bits, _ in results])
    assert_equal(new, regrow_dense(scores, growth, kept, groups, fraction))
    for group in groups:
        assert sum(int((~new[place]).sum()) for place in group.tensors) == group.num_pruned
    most = update_bytes(groups, world, regrows=fraction > 0)
    assert all(counted.sent == counted.received <= most for _, counted in results)


def test_a_rank_may_own_nothing(pool: RankPool) -> None:
    tensors = tensors_of([100, 50])
    scores = [torch.zeros(100), torch.zeros(50)]
    ranks = [[Shard(tensor, start, 0) for tensor in tensors] for start in (0, 7, 50)]
    ranks[1] = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    groups = make_groups(tensors, [0.7, 0.7])
    results = pool.run(3, run_select, ranks, scores, all_kept(scores), groups)
    new = join(ranks, [new for new, _ in results])
    assert_equal(new, [torch.arange(100) >= 100, torch.arange(50) >= 5])


def test_a_nan_is_refused_by_every_rank_with_its_tensor(pool: RankPool) -> None:
    sizes = [100, 1000]
    scores = normal(sizes)
    scores[1][999] = nan
    ranks = cut_randomly(tensors_of(sizes), 3, seed=1)
    groups = make_groups(tensors_of(sizes), [0.5, 0.5])
    messages = pool.run(3, message_of_select, ranks, scores, all_kept(scores), groups)
    assert messages == [messages[0]] * 3
    assert messages[0].startswith("layer.1.weight: 1 of its scores are NaN")
