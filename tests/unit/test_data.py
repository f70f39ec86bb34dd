"""The order of training examples: a function of seed and step, shared by ranks, resumable anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprune.errors import UserError
from dsprune.ranks.batch_order import BatchPlan, TrainSampler

LENGTHS = np.random.default_rng(0).integers(3, 60, size=100)


def plan(num_examples=100, batch=12, micro_batch=3, world_size=1, seed=7):
    return BatchPlan(num_examples, batch, micro_batch, world_size, seed)


def steps(plan, start, stop):
    """The examples of each optimizer step, by rank and micro-batch."""
    ranks = [
        list(TrainSampler(plan, LENGTHS[: plan.num_examples], rank, start=start, stop=stop))
        for rank in range(plan.world_size)
    ]
    a = plan.accumulation
    return [[batches[i * a : (i + 1) * a] for batches in ranks] for i in range(stop - start)]


def flat(step):
    return [example for rank in step for batch in rank for example in batch]


@given(
    micro_batch=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    world_size=st.integers(1, 4),
    num_examples=st.integers(64, 100),
    seed=st.integers(0, 2**32),
)
def test_an_epoch_has_each_example_at_most_once_in_full_batches(
    micro_batch, accumulation, world_size, num_examples, seed
):
    batch = micro_batch * accumulation * world_size
    a_plan = BatchPlan(num_examples, batch, micro_batch, world_size, seed)
    assert a_plan.accumulation == accumulation
    epoch = steps(a_plan, 0, a_plan.steps_per_epoch)
    assert all(len(flat(step)) == batch for step in epoch)
    assert all(len(micro) == micro_batch for step in epoch for rank in step for micro in rank)
    seen = [example for step in epoch for example in flat(step)]
    assert len(seen) == len(set(seen)) == num_examples - num_examples % batch
    assert set(seen) <= set(range(num_examples))


@pytest.mark.parametrize("micro_batch", [1, 3, 6])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_has_the_same_examples_on_any_number_of_ranks(world_size, micro_batch):
    expected = [sorted(flat(step)) for step in steps(plan(micro_batch=12), 0, 20)]
    found = [
        sorted(flat(step)) for step in steps(plan(micro_batch=micro_batch, world_size=world_size), 0, 20)
    ]
    assert found == expected


def test_training_resumes_from_any_step():
    a_plan = plan(world_size=2)
    everything = steps(a_plan, 0, 3 * a_plan.steps_per_epoch)
    for start in range(len(everything)):
        assert steps(a_plan, start, len(everything)) == everything[start:]


def test_every_epoch_and_seed_has_its_own_order():
    orders = [
        tuple(plan(seed=seed, batch=10, micro_batch=10).batches(epoch, LENGTHS).flat)
        for seed in (0, 1, 2)
        for epoch in (0, 1, 2)
    ]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(100)) for order in orders)


def test_batches_of_similar_length_come_in_random_order_with_little_padding() -> None:
    lengths = np.random.default_rng(1).integers(3, 60, size=4_000)
    batches = lengths[plan(num_examples=4_000, batch=20, micro_batch=20).batches(0, lengths)]
    assert batches.max(axis=1).sum() * 20 < 1.15 * lengths.sum()
    longest = batches.max(axis=1)
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_examples_of_similar_length_share_a_forward_pass_and_ranks_are_balanced():
    for step in steps(plan(batch=24, micro_batch=3, world_size=2), 0, 4):
        for first, second in zip(step[0], step[0][1:], strict=False):
            assert max(LENGTHS[first]) <= min(LENGTHS[second])
        padded = [sum(max(LENGTHS[micro]) for micro in rank) for rank in step]
        # Neighbours in the order of length lie on different ranks.
        assert abs(padded[0] - padded[1]) <= max(LENGTHS[flat(step)]) - min(LENGTHS[flat(step)])


def test_the_length_of_the_sampler_is_its_number_of_micro_batches():
    sampler = TrainSampler(plan(), LENGTHS, 0, start=5, stop=11)
    assert len(sampler) == len(list(sampler)) == 6 * 4


def test_fewer_examples_than_a_batch_are_refused():
    with pytest.raises(
        UserError, match=r"^budget\.batch: 12 is more than the 11 training examples: lower it$"
    ):
        plan(num_examples=11)


def test_a_batch_that_ranks_cannot_divide_is_refused():
    with pytest.raises(
        UserError, match=r"^budget\.batch: 12 is not a multiple of .* 3 times 3 ranks: change"
    ):
        plan(world_size=3)
