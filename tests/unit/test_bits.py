"""Packed masks: the layout of the bits, and masking that leaves +0.0, compiled or not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dsprune.kernels.cpu import Kernel, build_kernel, kernel_for
from dsprune.masks.bits import (
    apply_,
    apply_eager_,
    count_kept,
    invert,
    is_applied,
    pack,
    pick,
    prune_,
    unpack,
)

MASKS = st.lists(st.booleans(), max_size=70).map(lambda flags: torch.tensor(flags, dtype=torch.bool))


def test_bit_j_of_byte_i_is_weight_8i_plus_j() -> None:
    mask = torch.zeros(18, dtype=torch.bool)
    mask[[0, 9, 17]] = True
    assert pack(mask).tolist() == [0b1, 0b10, 0b10]


@given(MASKS)
def test_unpack_inverts_pack_and_the_tail_is_zero(mask: Tensor) -> None:
    bits = pack(mask)
    assert bits.dtype == torch.uint8
    assert bits.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack(bits, mask.numel()), mask)
    assert not unpack(bits, 8 * bits.numel())[mask.numel() :].any()
    assert count_kept(bits) == int(mask.sum())


@given(MASKS)
def test_invert_keeps_what_was_pruned(mask: Tensor) -> None:
    assert torch.equal(invert(pack(mask), mask.numel()), pack(~mask))


@given(MASKS, st.integers(0, 70), st.integers(1, 9))
def test_pick_is_a_slice_of_the_mask(mask: Tensor, start: int, step: int) -> None:
    part = slice(start, mask.numel(), step)
    assert torch.equal(pick(pack(mask), part, mask.numel()), mask[part])


@given(MASKS, st.data())
def test_prune_clears_the_bits_of_some_places(mask: Tensor, data: st.DataObject) -> None:
    kept = mask.nonzero().view(-1)
    places = kept[data.draw(st.lists(st.booleans(), min_size=len(kept), max_size=len(kept)))]
    bits = pack(mask)
    prune_(bits, places)
    mask[places] = False
    assert torch.equal(bits, pack(mask))


@pytest.mark.parametrize("value", [1.0, -0.0, torch.nan])
def test_a_pruned_entry_that_is_not_zero_is_found(value: float) -> None:
    mask = torch.arange(20) % 3 > 0
    weights = torch.randn(20).masked_fill(~mask, 0.0)
    weights[1] = torch.nan  # kept
    assert is_applied(pack(mask), weights)
    weights[18] = value
    assert not is_applied(pack(mask), weights)


@pytest.mark.parametrize("apply", [apply_, apply_eager_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, (1 << 20) + 13])
def test_apply_leaves_kept_weights_and_zeroes_the_others(
    apply: Callable[[Tensor, Tensor], None], dtype: torch.dtype, size: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    mask = torch.rand(size, generator=generator) > 0.5
    partition = torch.randn(size + 2, generator=generator).to(dtype)
    expected = partition.clone()
    expected[1:-1][~mask] = 0.0
    apply(pack(mask), partition[1:-1])  # a shard starts anywhere in its partition
    assert torch.equal(partition, expected)


@pytest.mark.parametrize("apply", [apply_, apply_eager_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_apply_leaves_plus_zero_where_there_was_nan_infinity_or_minus_zero(
    apply: Callable[[Tensor, Tensor], None], dtype: torch.dtype
) -> None:
    weights = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, -1.0] * 3, dtype=dtype)
    apply(pack(torch.zeros(15, dtype=torch.bool)), weights)
    assert weights.tolist() == [0.0] * 15
    assert not torch.signbit(weights).any()


def test_apply_works_on_a_strided_view_and_on_a_parameter() -> None:
    mask = torch.arange(10) % 3 > 0
    columns = torch.ones(10, 2)
    apply_(pack(mask), columns[:, 0])
    assert columns.tolist() == [[float(keep), 1.0] for keep in mask]
    parameter = torch.nn.Parameter(torch.ones(10))
    apply_(pack(mask), parameter)
    assert parameter.tolist() == mask.tolist()


def test_the_kernel_is_used_where_it_can_be() -> None:
    assert isinstance(kernel_for(torch.ones(3)), Kernel)
    assert kernel_for(torch.ones(3, 2)[:, 0]) is None
    assert kernel_for(torch.ones(3, device="meta")) is None


def test_the_kernel_is_built_once(tmp_path: Path) -> None:
    library = build_kernel(tmp_path / "cache")
    written = library.stat().st_mtime_ns
    assert build_kernel(tmp_path / "cache") == library
    assert library.stat().st_mtime_ns == written
    assert list(library.parent.iterdir()) == [library], "scratch files are left"


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n"], ids=["no compiler", "a broken one"])
def test_no_working_compiler_is_no_error(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "cc").write_text(script)
        (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_kernel(tmp_path / "cache") is None


def test_an_unwritable_cache_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert build_kernel(tmp_path / "file" / "cache") is None
