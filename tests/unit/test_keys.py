"""Keys have the order of scores, and functions of keys have equal results with and without the compiled kernel."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsprune.kernels.cpu import kernel_for
from dsprune.kernels.product import Product
from dsprune.masks.bits import count_kept, num_bytes, pack, unpack
from dsprune.selection.scan import (
    CHUNK,
    HIGHEST_KEY,
    LOWEST_KEY,
    NAN_KEY,
    PRUNED_KEY,
    Scorer,
    sample,
    sample_eager,
    scan,
    scan_eager,
    settle,
    settle_eager,
    to_keys,
)
from dsprune.selection.search import BINS, histograms, histograms_eager

FLOATS = st.floats(width=32, allow_nan=False)
BOUNDS = LOWEST_KEY, HIGHEST_KEY
ODD = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, inf, -inf, nan, -nan]


def key_of(score: float, kept: bool = True, absolute: bool = False) -> int:
    return int(to_keys(torch.tensor([score]), absolute, torch.tensor([kept])))


@given(FLOATS, FLOATS)
def test_keys_order_as_scores(first: float, second: float) -> None:
    assert (key_of(first) < key_of(second)) == (first < second)
    assert (key_of(first) == key_of(second)) == (first == second)


def test_zeros_nan_and_infinities_have_their_own_keys() -> None:
    assert key_of(-0.0) == key_of(0.0) == 0
    assert key_of(nan) == key_of(-nan) == NAN_KEY
    assert PRUNED_KEY < LOWEST_KEY < key_of(-inf) < key_of(inf) < HIGHEST_KEY < NAN_KEY
    assert key_of(nan, kept=False) == key_of(-inf, kept=False) == PRUNED_KEY


@pytest.mark.parametrize("score", ODD)
def test_absolute_keys_are_the_keys_of_absolute_scores(score: float) -> None:
    assert key_of(score, absolute=True) == key_of(abs(score))
    assert key_of(score, kept=False, absolute=True) == PRUNED_KEY


def scores_and_mask(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(size, generator=generator)
    odd = torch.tensor(ODD)[torch.randint(len(ODD), (size,), generator=generator)]
    scores = torch.where(torch.rand(size, generator=generator) < 0.3, odd, scores)
    return scores, torch.rand(size, generator=generator) > 0.3


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    "bounds", [(LOWEST_KEY, HIGHEST_KEY), (0, 0), (-5, 2**30), (HIGHEST_KEY, HIGHEST_KEY)]
)
def test_scan_counts_prunes_and_copies_in_order(size: int, absolute: bool, bounds: tuple[int, int]) -> None:
    low, high = bounds
    scores, mask = scores_and_mask(size)
    keys = to_keys(scores, absolute, mask).tolist()
    expected = [(place, key) for place, key in enumerate(keys) if low <= key <= high]
    kernel = kernel_for(scores)
    for scan_chunk in (kernel.scan, scan_eager):
        kept = torch.full((num_bytes(size),), 255, dtype=torch.uint8)
        num_below, num_nan, inside, places = scan_chunk(
            Product(scores), absolute, pack(mask), low, high, kept
        )
        assert num_below == sum(key < low for key in keys)
        assert num_nan == sum(key == NAN_KEY for key in keys)
        assert list(zip(places.tolist(), inside.tolist(), strict=True)) == expected
        assert torch.equal(kept, pack(torch.tensor(keys) >= low))


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1001])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_kernel_computes_products_as_torch_does(size: int, absolute: bool, scale: float) -> None:
    scores, mask = scores_and_mask(size)
    kernel, kept = kernel_for(scores), pack(mask)
    for root in (None, scores_and_mask(size)[0].flip(0).abs()):
        product = Product(scores, root, scale)
        scorer = Scorer(lambda part, product=product: product[part].values(), absolute, product)
        for part in (slice(0, size, 1), slice(size // 2, size, 7), slice(size, size, 3)):
            assert torch.equal(sample(scorer, size, kept, part), sample_eager(scorer, size, kept, part))
        new = [torch.empty_like(kept) for _ in range(2)]
        compiled = kernel.scan(product, absolute, kept, -5, 2**30, new[0])
        eager = scan_eager(product, absolute, kept, -5, 2**30, new[1])
        assert compiled[:2] == eager[:2]
        assert all(map(torch.equal, compiled[2:], eager[2:]))
        assert torch.equal(*new)


def test_products_in_16_bits_are_those_of_float32() -> None:
    scores, mask = scores_and_mask(1001)
    product = Product(scores.bfloat16(), scores.abs().bfloat16(), 0.3)
    scorer = Scorer(lambda part: product[part].values(), product=product)
    found = scan(scorer, 1001, pack(mask), LOWEST_KEY, HIGHEST_KEY)
    assert torch.equal(found.inside, scan(replace(scorer, product=None), 1001, pack(mask), *BOUNDS).inside)


@pytest.mark.parametrize("quota", [0, 2, 100])
def test_settling_with_and_without_the_kernel(quota: int) -> None:
    keys = torch.arange(500, dtype=torch.int32) % 5
    places = torch.arange(0, 1000, 2)
    masks = [pack(torch.ones(1000, dtype=torch.bool)) for _ in range(2)]
    kernel = kernel_for(keys)
    for settle_all, kept in zip((kernel.settle, settle_eager), masks, strict=True):
        assert settle_all(kept, keys, places, 3, quota) == quota
    assert torch.equal(*masks)
    assert 1000 - count_kept(masks[0]) == 300 + quota


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1001])
@pytest.mark.parametrize("threshold", [LOWEST_KEY, 0, 1, 2**30, HIGHEST_KEY])
def test_settle_prunes_below_the_threshold_and_the_first_ties(size: int, threshold: int) -> None:
    scores, mask = scores_and_mask(size)
    keys = to_keys(scores, False, mask)
    ties = (keys == threshold).nonzero().view(-1)
    scorer = Scorer(scores.__getitem__)
    for quota in {0, len(ties) // 2, len(ties)}:
        expected = keys >= threshold
        expected[ties[:quota]] = False
        for low, high in ((LOWEST_KEY, HIGHEST_KEY), (threshold, threshold)):
            new = settle(scan(scorer, size, pack(mask), low, high), threshold, quota)
            assert torch.equal(new, pack(expected))


def test_a_scan_goes_through_a_shard_in_chunks() -> None:
    size = CHUNK * 2 + 11
    scores = torch.arange(size) % 1000 - 500.0
    kept = pack(torch.ones(size, dtype=torch.bool))
    strided = torch.stack([scores, scores], dim=1)[:, 0]
    for absolute in (False, True):
        ranked = scores.abs() if absolute else scores
        ties = (ranked == 100).nonzero().view(-1)
        expected = ranked >= 100
        expected[ties[:-1]] = False
        for values in (scores, strided):
            found = scan(Scorer(values.__getitem__, absolute), size, kept, key_of(100.0), key_of(100.0))
            assert found.num_below == int((ranked < 100).sum())
            assert found.inside.tolist() == [key_of(100.0)] * len(ties)
            assert torch.equal(found.places, ties)
            assert torch.equal(unpack(settle(found, key_of(100.0), len(ties) - 1), size), expected)


def test_an_empty_shard_has_nothing() -> None:
    bits = torch.empty(0, dtype=torch.uint8)
    found = scan(Scorer(torch.empty(0).__getitem__), 0, bits, 0, 1)
    assert (found.num_below, found.num_nan, found.inside.numel(), found.places.numel()) == (0, 0, 0, 0)
    assert settle(found, 0, 0).numel() == 0


@given(
    st.lists(st.integers(PRUNED_KEY, NAN_KEY)), st.integers(PRUNED_KEY, NAN_KEY), st.sampled_from([0, 8, 24])
)
def test_histograms_count_each_bin_and_nothing_else(keys: list[int], low: int, bin_bits: int) -> None:
    given, sizes = torch.tensor([7, *keys], dtype=torch.int32), torch.tensor([1, len(keys)])
    starts = torch.tensor([7, low, 7, keys[0] if keys else 0])  # two ranges for each of two groups
    bits = torch.tensor([0, bin_bits] * 2)
    expected = [[1] + [0] * (BINS - 1), counts_of(keys, low, bin_bits)]
    expected += [expected[0], counts_of(keys, int(starts[3]), bin_bits)]
    assert histograms(given, sizes, starts, bits).tolist() == expected
    assert histograms_eager(given, torch.tensor([0, 1]), sizes, starts, bits).tolist() == expected


def counts_of(keys: list[int], start: int, bin_bits: int) -> list[int]:
    bins = [(key - start) >> bin_bits for key in keys]
    return [bins.count(number) for number in range(BINS)]
