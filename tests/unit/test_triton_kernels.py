"""Triton kernels give the same bits as their eager versions: on a GPU, or interpreted on CPU tensors."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsprune.kernels import accelerator
from dsprune.kernels.product import Product
from dsprune.masks.bits import apply_eager_, pack
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import make_groups
from dsprune.selection.scan import HIGHEST_KEY, LOWEST_KEY, Scorer, sample_eager, scan_eager, settle_eager
from dsprune.selection.search import BINS

# The interpreter computes with NumPy, which warns where infinity times zero is NaN.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ODD = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0, -1.0, inf, -inf, nan, -nan])
SIZES = (4096, 1, 0, 15, 4099)


def parts_of(sizes: tuple[int, ...], dtype: torch.dtype, offset: int, seed: int = 0) -> list[Tensor]:
    """Normal and odd numbers, one tensor after the other in one buffer, `offset` numbers from its start."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(offset + sum(sizes), generator=generator)
    odd = ODD[torch.randint(len(ODD), values.shape, generator=generator)]
    values = torch.where(torch.rand(values.shape, generator=generator) < 0.3, odd, values).to(dtype)
    return list(values.to(DEVICE)[offset:].split(sizes))


def masks_of(sizes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [pack(torch.rand(size, generator=generator) > 0.4).to(DEVICE) for size in sizes]


def words(values: Tensor) -> Tensor:
    return values.view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("offset", [0, 1, 8])
def test_masking_equals_the_eager_version(dtype: torch.dtype, offset: int) -> None:
    values, kept = parts_of(SIZES, dtype, offset), masks_of(SIZES)
    expected = [value.clone() for value in values]
    for bits, value in zip(kept, expected, strict=True):
        apply_eager_(bits, value)
    accelerator.mask_(kept, values)
    assert all(torch.equal(words(new), words(old)) for new, old in zip(values, expected, strict=True))


def test_masking_tensors_of_two_dtypes_at_once() -> None:
    values = [*parts_of((9,), torch.float32, 0), *parts_of((4100,), torch.bfloat16, 0)]
    accelerator.mask_(
        [pack(torch.zeros(size, dtype=torch.bool, device=DEVICE)) for size in (9, 4100)], values
    )
    assert not any(words(value).any() for value in values)


PRODUCTS = {
    "values": (torch.float32, None, 1.0),
    "scaled": (torch.float32, None, 0.3),
    "values with a root": (torch.float32, torch.float32, 1.0),
    "16 bits": (torch.bfloat16, torch.bfloat16, 3.0),
}


def products_of(kind: str, offset: int) -> list[Product]:
    values_dtype, root_dtype, scale = PRODUCTS[kind]
    values = parts_of(SIZES, values_dtype, offset)
    if root_dtype is None:
        return [Product(value, scale=scale) for value in values]
    roots = parts_of(SIZES, root_dtype, offset, seed=2)
    return [Product(value, root.abs(), scale) for value, root in zip(values, roots, strict=True)]


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(("offset", "absolute"), [(0, True), (3, False)])
@pytest.mark.parametrize("bounds", [(LOWEST_KEY, HIGHEST_KEY), (-5, 2**30), (-2, 100)])
def test_counting_equals_the_eager_version(
    kind: str, offset: int, absolute: bool, bounds: tuple[int, int]
) -> None:
    products, kept = products_of(kind, offset), masks_of(SIZES)
    low, high = (torch.full((len(SIZES),), bound) for bound in bounds)
    bin_bits = torch.full_like(low, max(0, (bounds[1] - bounds[0]).bit_length() - 8))
    counts = accelerator.Segments(products, absolute, kept).count(low, high, bin_bits, BINS)
    for size, scores, bits, row in zip(SIZES, products, kept, counts, strict=True):
        below, nans, keys, _ = scan_eager(scores, absolute, bits, *bounds, torch.empty_like(bits))
        assert (size - row[0], row[1]) == (below, nans)
        bins = (keys.cpu().long() - bounds[0]) >> bin_bits[0]
        assert torch.equal(row[2:], bins.bincount(minlength=BINS))


@pytest.mark.parametrize(
    ("kind", "threshold"), [*((kind, 0) for kind in PRODUCTS), ("values", 0x3F800000), ("values", -7)]
)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_settling_prunes_the_first_ties(
    kind: str, threshold: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, products, kept = count_calls(monkeypatch, "_launch"), products_of(kind, 3), masks_of(SIZES)
    ties, quotas, expected = [], [], []
    for scores, bits in zip(products, kept, strict=True):
        wanted = torch.empty_like(bits)
        _, _, keys, places = scan_eager(scores, True, bits, threshold, threshold, wanted)
        ties.append(keys.numel())
        quotas.append(int(share * keys.numel()))
        settle_eager(wanted, keys, places, threshold, quotas[-1])
        expected.append(wanted)
    thresholds = torch.full((len(SIZES),), threshold)
    some_are_left = any(0 < part < total for part, total in zip(quotas, ties, strict=True))
    new = accelerator.Segments(products, True, kept).settle(
        thresholds, torch.tensor(ties), torch.tensor(quotas)
    )
    assert all(torch.equal(*pair) for pair in zip(new, expected, strict=True))
    assert len(launched) == (2 if some_are_left else 1)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("stride", [1, 7])
def test_a_sample_has_the_keys_of_every_nth_weight(kind: str, stride: int) -> None:
    products, kept = products_of(kind, 1), masks_of(SIZES)
    parts = [slice(min(2, size), size, stride) for size in SIZES]
    keys, sizes = accelerator.Segments(products, True, kept).sample(parts)
    found = keys.split(sizes.tolist())
    for size, scores, bits, part, own in zip(SIZES, products, kept, parts, found, strict=True):
        scorer = Scorer(lambda part, scores=scores: scores[part].values(), absolute=True)
        assert torch.equal(own, sample_eager(scorer, size, bits, part).cpu())


@pytest.mark.parametrize("kind", ["zeros", "rounded", "rooted"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_a_selection_is_that_of_the_cpu(kind: str, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (1, 8000, 13, 9, 4500)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(size, generator=generator).mul(4).round() for size in sizes]
    if kind == "zeros":
        weights = [weight * (weight > 3) for weight in weights]
    products = [Product(weight, weight.cos().square() if kind == "rooted" else None) for weight in weights]
    sparsities = [0.7, 0.6, 0.7, 0.6, 0.7]  # so that the tensors of a group are not neighbours
    launches = launches_to_select(products, sparsities, scope, monkeypatch)
    assert launches <= 7, (
        "a sample, the counts of a bracket and of up to three searches in it, and masks twice"
    )


def test_a_selection_counts_again_where_the_sample_misleads(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 1 + torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    weights[:: make_groups(tensors_of([weights]), [0.7])[0].stride] = 5.0
    assert launches_to_select([Product(weights)], [0.7], "global", monkeypatch) == 7


@pytest.mark.parametrize("compiler", [True, False])
def test_without_a_c_compiler_the_eager_path_is_taken(
    compiler: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "DEVICES", ("cpu",))
    monkeypatch.setattr(accelerator, "_has_triton", accelerator._has_triton.__wrapped__)  # without its cache
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler:
        (tmp_path / "gcc").touch(0o755)
    assert accelerator.is_accelerated(torch.ones(8)) == compiler


def launches_to_select(
    products: list[Product], sparsities: list[float], scope: str, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Compare a selection with that of the CPU, and return its launches: it waits for all except those of masks."""
    tensors = tensors_of([given.first for given in products])
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    groups, kept = make_groups(tensors, sparsities, scope), masks_of([tensor.numel for tensor in tensors])
    scorers = [
        Scorer(lambda part: pytest.fail("torch computes the scores"), True, given) for given in products
    ]
    expected = select(shards, scorers, [bits.cpu() for bits in kept], groups, Comm())
    monkeypatch.setattr(accelerator, "DEVICES", (DEVICE.type,))
    launches, waits = count_calls(monkeypatch, "_launch"), count_calls(monkeypatch, "_fetch")
    there = [
        Product(given.first.to(DEVICE), None if given.root is None else given.root.to(DEVICE))
        for given in products
    ]
    scorers = [replace(scorer, product=given) for scorer, given in zip(scorers, there, strict=True)]
    found = select(shards, scorers, kept, groups, Comm())
    assert all(torch.equal(new.cpu(), old) for new, old in zip(found, expected, strict=True))
    assert len(waits) == sum(name != "settle_kernel" for name, *_ in launches)
    return len(launches)


def tensors_of(values: Sequence[Tensor]) -> list[PrunableTensor]:
    return [PrunableTensor(str(place), (value.numel(),)) for place, value in enumerate(values)]


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []
    function = getattr(accelerator, name)

    def call(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(accelerator, name, call)
    return calls
