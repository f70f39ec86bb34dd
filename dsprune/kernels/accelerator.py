"""Launches of the Triton kernels: one for all segments of a rank, and few waits for the device."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dsprune.kernels.product import Product

__all__ = ["Segments", "is_accelerated", "mask_"]

DEVICES = ("cuda",)
"""The device types for which torch has Triton; ROCm's is "cuda" too."""


def is_accelerated(*tensors: Tensor) -> bool:
    """Return whether the kernels can work on these tensors."""
    return all(given.device.type in DEVICES and given.is_contiguous() for given in tensors) and _has_triton()


def mask_(kept: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set the pruned entries of 1-D tensors to zero, in place: one launch for each size of their entries."""
    for size in sorted({value.element_size() for value in values}):
        segments = tuple(
            (value.data_ptr(), bits.data_ptr(), value.numel())
            for bits, value in zip(kept, values, strict=True)
            if value.element_size() == size
        )
        table, owners = _mask_table(segments, values[0].device)
        _launch("mask_kernel", table, owners, DTYPE=_type(f"int{8 * size}"))


class Segments:
    """Scores on an accelerator. Kernels compute their keys; each method is one launch over all segments.

    Args:
        products: the scores of each segment, of the same types.
        absolute: whether to rank their absolute values.
        kept: the packed masks so far, which are not changed.
    """

    def __init__(self, products: Sequence[Product], absolute: bool, kept: Sequence[Tensor]) -> None:
        self._kept, self._products, self._device = kept, products, kept[0].device
        self._columns = {
            "VALUES": torch.tensor([given.first.data_ptr() for given in products]),
            "ROOT": torch.tensor([0 if given.root is None else given.root.data_ptr() for given in products]),
            "KEPT": torch.tensor([bits.data_ptr() for bits in kept]),
            "SCALE": torch.tensor([given.scale for given in products], dtype=torch.float32).view(torch.int32),
        }
        root = torch.int8 if products[0].root is None else products[0].root.dtype
        values = products[0].first.dtype
        self._types = {"VALUES_DTYPE": _type(values), "ROOT_DTYPE": _type(root), "ABSOLUTE": absolute}
        self.numels = torch.tensor([given.first.numel() for given in products])

    def sample(self, parts: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Return the keys of every n-th weight of each segment, on the CPU, and their number in each segment.

        Waits for the device once. `parts` has first weight, end and stride in each segment.
        """
        start, stop, stride = torch.tensor([(part.start, part.stop, part.step) for part in parts]).unbind(1)
        sizes = ((stop - start).clamp(min=0) + stride - 1) // stride
        keys = torch.empty(int(sizes.sum()), dtype=torch.int32, device=self._device)
        output = keys.data_ptr() + 4 * (sizes.cumsum(0) - sizes)
        columns = {"START": start, "STRIDE": stride, "OUTPUT": output}
        table, owners = _table(self._columns | columns, sizes, int(_kernels().SAMPLES), self._device)
        _launch("sample_kernel", table, owners, **self._types)
        return _fetch(keys), sizes

    def count(self, low: Tensor, high: Tensor, bin_bits: Tensor, num_bins: int) -> Tensor:
        """Count the keys of each segment in a range. Waits for the device once.

        Args:
            low: first key of each range.
            high: last key of each range.
            bin_bits: log2 of the number of keys in a bin of each range.
            num_bins: number of bins from `low` to `high`, a power of two.

        Returns:
            `[segments, 2 + num_bins]`: number of keys that are not below `low`, number of NaN scores, and a histogram.
        """
        columns = {"LOW": low, "HIGH": high, "BIN_BITS": bin_bits}
        table, owners = _table(
            self._columns | columns, self.numels, int(_kernels().BLOCK), self._device, 2 + num_bins
        )
        _launch("count_kernel", table, owners, **self._types, NUM_BINS=num_bins)
        return _fetch(table)[:, int(_kernels().COLUMNS) :]

    def settle(self, thresholds: Tensor, ties: Tensor, quotas: Tensor) -> list[Tensor]:
        """Return new masks: they prune the keys of each segment below its threshold, and the first ties with it.

        `quotas` of the `ties` of each segment are pruned. Segments that prune some but not all of their ties take a
        second launch, for which the device sums the ties of the blocks. Does not wait for the device.
        """
        new = _empty_masks(self._kept)
        columns = {
            "LOW": thresholds,
            "OUTPUT": torch.tensor([bits.data_ptr() for bits in new]),
            "QUOTA": torch.where(quotas < ties, quotas, -1),
        }
        table, owners = _table(self._columns | columns, self.numels, int(_kernels().BLOCK), self._device)
        found = torch.empty(len(owners), dtype=torch.int64, device=self._device)
        _launch("settle_kernel", table, owners, found, **self._types, IS_PARTED=False)
        if ((quotas > 0) & (quotas < ties)).any():
            _launch("settle_kernel", table, owners, found.cumsum(0), **self._types, IS_PARTED=True)
        return new


def _empty_masks(kept: Sequence[Tensor]) -> list[Tensor]:
    """Return uninitialized masks of the same sizes in one buffer, each aligned to four bytes."""
    sizes = [-(-bits.numel() // 4) * 4 for bits in kept]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=kept[0].device)
    return [row[: bits.numel()] for row, bits in zip(buffer.split(sizes), kept, strict=True)]


def _launch(name: str, table: Tensor, owners: Tensor, *args: Any, **types: Any) -> None:
    """Launch a kernel with one program per block, if there are blocks."""
    if owners.numel():
        getattr(_kernels(), name)[(owners.numel(),)](
            table, owners, *args, **types, num_warps=_kernels().WARPS
        )


@lru_cache(maxsize=32)
def _mask_table(segments: tuple[tuple[int, int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the result of `_table` for masking, given addresses and sizes; the tables of the last steps are cached."""
    values, kept, numels = torch.tensor(segments, dtype=torch.int64).unbind(1)
    return _table({"VALUES": values, "KEPT": kept}, numels, int(_kernels().BLOCK), device)


def _table(
    columns: dict[str, Tensor], sizes: Tensor, block: int, device: torch.device, num_counts: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the table of some segments, given sizes and other columns, and the segment of each block.

    Each row ends with `num_counts` zeros, which kernels use as counters.
    """
    owners, first_blocks = _owners(tuple(sizes.tolist()), block, device)
    table = torch.zeros((len(sizes), int(_kernels().COLUMNS) + num_counts), dtype=torch.int64)
    for name, values in {**columns, "NUMEL": sizes, "FIRST_BLOCK": first_blocks}.items():
        table[:, int(getattr(_kernels(), name))] = values
    return _to(table, device), owners


@lru_cache(maxsize=32)
def _owners(numels: tuple[int, ...], block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the segment of each block, on the device, and the first block of each segment."""
    counts = torch.tensor([-(-numel // block) for numel in numels])
    owners = torch.arange(len(numels), dtype=torch.int32).repeat_interleave(counts)
    return _to(owners, device), counts.cumsum(0) - counts


def _to(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def _fetch(values: Tensor) -> Tensor:
    """Copy from the device, and wait for it."""
    return values.cpu()


@cache
def _has_triton() -> bool:
    """Return whether Triton is there with the C compiler that it needs."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and find_spec("triton") is not None


@cache
def _type(dtype: torch.dtype | str) -> Any:
    """Return Triton's type."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))


def _kernels() -> Any:
    """Return the module of the kernels, which needs Triton."""
    from dsprune.kernels import triton_kernels

    return triton_kernels
