import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprune.model.cost import checkpoint_bytes, rank_memory

STAGES = range(4)
PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "master", "moments", "masks"),
    [
        (0, 2000, 2000, 4000, 8000, 100),
        (1, 2000, 2000, 1000, 2000, 25),
        (2, 2000, 500, 1000, 2000, 25),
        (3, 500, 500, 1000, 2000, 25),
    ],
)
def test_a_thousand_bf16_weights_on_four_ranks(
    stage: int, weights: int, gradients: int, master: int, moments: int, masks: int
) -> None:
    memory = rank_memory(1000, 800, stage, world_size=4, precision="bf16")
    assert (memory.weights, memory.gradients, memory.master) == (weights, gradients, master)
    assert (memory.moments, memory.masks) == (moments, masks)
    assert memory.total == weights + gradients + master + moments + masks


@pytest.mark.parametrize(("stage", "master"), [(0, 0), (1, 4000), (2, 4000), (3, 4000)])
def test_in_fp32_only_zero_keeps_a_master_copy(stage: int, master: int) -> None:
    assert rank_memory(1000, 0, stage, world_size=1, precision="fp32").master == master


def test_marks_of_regrown_weights_cost_a_second_bit() -> None:
    for stage in STAGES:
        plain, marked = (
            rank_memory(1000, 800, stage, world_size=4, precision="bf16", regrows=regrows)
            for regrows in (False, True)
        )
        assert marked.masks == 2 * plain.masks
        assert marked.total - plain.total == plain.masks
    sizes = [checkpoint_bytes(1000, 800, 2, "bf16", regrows=regrows) for regrows in (False, True)]
    assert sizes[1] - sizes[0] == 100


@given(st.integers(1, 10**12), st.integers(1, 4096), st.sampled_from(PRECISIONS))
def test_no_stage_takes_more_than_the_one_before_but_for_the_master_copy(
    num_weights: int, world_size: int, precision: str
) -> None:
    totals = [rank_memory(num_weights, num_weights, s, world_size, precision).total for s in (1, 2, 3)]
    assert totals == sorted(totals, reverse=True)


@given(st.integers(1, 10**12), st.integers(1, 4096), st.sampled_from(STAGES), st.sampled_from(PRECISIONS))
def test_a_mask_costs_a_bit_where_the_moments_cost_eight_bytes(
    num_weights: int, world_size: int, stage: int, precision: str
) -> None:
    memory = rank_memory(num_weights, num_weights, stage, world_size, precision)
    assert memory.masks <= memory.moments / 64 + 1


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [
        (0, "fp32", 4000 + 0 + 8000 + 100),
        (0, "bf16", 2000 + 4000 + 8000 + 100),
        (2, "fp32", 4000 + 4000 + 8000 + 100),
        (3, "bf16", 0 + 4000 + 8000 + 100),
    ],
)
def test_checkpoint_of_a_thousand_weights(stage: int, precision: str, expected: int) -> None:
    assert checkpoint_bytes(1000, 800, stage, precision) == expected
