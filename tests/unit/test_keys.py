"""Keys order as scores do, and both passes over them give the same with and without the compiled kernel."""

from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsprune.pure.masks.bits import num_bytes, pack, unpack
from dsprune.pure.masks.kernel import kernel_for
from dsprune.pure.selection.keys import HIGHEST_KEY, LOWEST_KEY, NAN_KEY, PRUNED_KEY, to_keys
from dsprune.pure.selection.passes import cut, cut_eager, scan, scan_eager

FLOATS = st.floats(width=32, allow_nan=False)
ODD = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, inf, -inf, nan, -nan]


def key_of(score: float, kept: bool = True) -> int:
    return int(to_keys(torch.tensor([score]), torch.tensor([kept])))


@given(FLOATS, FLOATS)
def test_keys_order_as_scores(first: float, second: float) -> None:
    assert (key_of(first) < key_of(second)) == (first < second)
    assert (key_of(first) == key_of(second)) == (first == second)


def test_odd_scores() -> None:
    assert key_of(-0.0) == key_of(0.0) == 0
    assert key_of(nan) == key_of(-nan) == NAN_KEY
    assert PRUNED_KEY < LOWEST_KEY < key_of(-inf) < key_of(inf) < HIGHEST_KEY < NAN_KEY
    assert key_of(nan, kept=False) == key_of(-inf, kept=False) == PRUNED_KEY


def scores_and_mask(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(size, generator=generator)
    odd = torch.tensor(ODD)[torch.randint(len(ODD), (size,), generator=generator)]
    scores = torch.where(torch.rand(size, generator=generator) < 0.3, odd, scores)
    return scores, torch.rand(size, generator=generator) > 0.3


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
@pytest.mark.parametrize(
    "bounds", [(LOWEST_KEY, HIGHEST_KEY), (0, 0), (-5, 2**30), (HIGHEST_KEY, HIGHEST_KEY)]
)
def test_scan_counts_and_copies_in_order(size: int, bounds: tuple[int, int]) -> None:
    low, high = bounds
    scores, mask = scores_and_mask(size)
    keys = to_keys(scores, mask)
    kernel = kernel_for(scores)
    assert kernel is not None
    for scan_chunk in (kernel.scan, scan_eager):
        num_below, num_nan, inside = scan_chunk(scores, pack(mask), low, high)
        assert num_below == sum(key < low for key in keys.tolist())
        assert num_nan == sum(key == NAN_KEY for key in keys.tolist())
        assert inside.tolist() == [key for key in keys.tolist() if low <= key <= high]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
@pytest.mark.parametrize("threshold", [LOWEST_KEY, 0, 1, 2**30, HIGHEST_KEY])
def test_cut_prunes_below_the_threshold_and_the_first_ties(size: int, threshold: int) -> None:
    scores, mask = scores_and_mask(size)
    keys = to_keys(scores, mask)
    kernel = kernel_for(scores)
    assert kernel is not None
    ties = (keys == threshold).nonzero().view(-1)
    for quota in {0, len(ties) // 2, len(ties), len(ties) + 3}:
        expected = keys >= threshold
        expected[ties[:quota]] = False
        for cut_chunk in (kernel.cut, cut_eager):
            new = torch.full((num_bytes(size),), 255, dtype=torch.uint8)
            left = cut_chunk(scores, pack(mask), threshold, quota, new)
            assert left == max(quota - len(ties), 0)
            assert torch.equal(new, pack(expected))


def test_passes_go_through_a_shard_in_chunks() -> None:
    size = (1 << 18) * 2 + 11
    scores = torch.arange(size) % 1000 * 1.0
    kept = pack(torch.ones(size, dtype=torch.bool))
    threshold = key_of(500.0)
    expected = scores >= 500
    ties = (scores == 500).nonzero().view(-1)
    expected[ties[:-1]] = False
    contiguous = scores.__getitem__
    strided = torch.stack([scores, scores], dim=1)[:, 0].__getitem__
    for scorer in (contiguous, strided):
        found = scan(scorer, size, kept, threshold, threshold)
        assert found.num_below == int((scores < 500).sum())
        assert found.inside.tolist() == [threshold] * len(ties)
        assert torch.equal(unpack(cut(scorer, size, kept, threshold, len(ties) - 1), size), expected)


def test_an_empty_shard_has_nothing() -> None:
    nothing = torch.empty(0)
    bits = torch.empty(0, dtype=torch.uint8)
    found = scan(nothing.__getitem__, 0, bits, 0, 1)
    assert (found.num_below, found.num_nan, found.inside.numel()) == (0, 0, 0)
    assert cut(nothing.__getitem__, 0, bits, 0, 0).numel() == 0
