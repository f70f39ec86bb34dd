"""Launches of the Triton kernels: one for all segments of a rank, and few waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsprune.kernels.product import Product

__all__ = ["Found", "Segments", "is_accelerated", "mask_", "prune_"]

DEVICES = ("cuda",)
"""The types of device whose torch has Triton; ROCm's is "cuda" too."""

WORD_OF_SIZE = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


MOST_COPIED = 1 / 40
"""Share of all keys that one launch copies at most, unless one segment has more: they take 0.15 bytes a weight."""

ALWAYS_COPIED = 2**20
"""Keys that one launch may copy, however small the model."""


class Found(NamedTuple):
    """What the segments have in their ranges.

    Attributes:
        keys: the keys in the ranges, on the CPU, in the order of the weights, one segment after the other.
        places: their indices in their segments, on the CPU.
        kept: the new packed mask of each segment.
    """

    keys: Tensor
    places: Tensor
    kept: list[Tensor]


def is_accelerated(*tensors: Tensor) -> bool:
    """Return whether the kernels can work on these tensors."""
    return all(given.device.type in DEVICES and given.is_contiguous() for given in tensors) and _has_triton()


def mask_(kept: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set the pruned entries of 1-D tensors to zero, in place: one launch for each size of their entries."""
    for size in sorted({value.element_size() for value in values}):
        pairs = [pair for pair in zip(kept, values, strict=True) if pair[1].element_size() == size]
        numels = tuple(value.numel() for _, value in pairs)
        addresses = tuple((value.data_ptr(), bits.data_ptr()) for bits, value in pairs)
        table, owners = _tables(addresses, numels, values[0].device)
        _launch("mask_kernel", owners, table, owners, DTYPE=_word(size))


class Segments:
    """Scores on an accelerator, whose keys kernels compute; each method is one launch over all segments.

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
        self._types = _types(products[0], absolute)
        self.numels = torch.tensor([given.first.numel() for given in products])

    def sample(self, parts: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Return the keys of every n-th weight of each segment, on the CPU, and how many each has.

        Waits for the device once.

        Args:
            parts: first weight, end and stride in each segment.
        """
        from dsprune.kernels.triton_kernels import SAMPLES

        start, stop, stride = torch.tensor([(part.start, part.stop, part.step) for part in parts]).unbind(1)
        sizes = ((stop - start).clamp(min=0) + stride - 1) // stride
        keys = torch.empty(int(sizes.sum()), dtype=torch.int32, device=self._device)
        output = keys.data_ptr() + 4 * (sizes.cumsum(0) - sizes)
        columns = {"START": start, "STRIDE": stride, "OUTPUT": output}
        self._start("sample_kernel", int(SAMPLES), sizes, columns)
        return _fetch(keys), sizes

    def count(self, low: Tensor, high: Tensor, bin_bits: Tensor, num_bins: int) -> Tensor:
        """Count the keys of each segment in a range. Waits for the device once.

        Args:
            low: first key of each range.
            high: last key of each range.
            bin_bits: log2 of the number of keys in a bin of each range.
            num_bins: number of bins from `low` on, which reach as far as `high`.

        Returns:
            `[segments, 2 + num_bins]`: number of kept weights from `low` on, number of NaNs, and a histogram.
        """
        from dsprune.kernels.triton_kernels import BLOCK

        shape = len(self.numels), 2 + num_bins
        counts = torch.empty(shape, dtype=torch.int64, device=self._device).zero_()
        output = counts.data_ptr() + 8 * shape[1] * torch.arange(shape[0])
        columns = {"LOW": low, "HIGH": high, "BIN_BITS": bin_bits, "OUTPUT": output}
        self._start("count_kernel", int(BLOCK), self.numels, columns)
        return _fetch(counts)

    def copy(self, low: Tensor, high: Tensor, sizes: Tensor) -> Found:
        """Prune the keys of each segment below its range, and copy those inside.

        Waits for the device once for each launch. There are several where many keys are inside, to bound their memory.

        Args:
            low: first key of each range.
            high: last key of each range.
            sizes: how many keys are inside each range.
        """
        new = _empty_masks(self._kept)
        columns = {"LOW": low, "HIGH": high, "OUTPUT": torch.tensor([bits.data_ptr() for bits in new])}
        most = max(ALWAYS_COPIED, int(MOST_COPIED * int(self.numels.sum())))
        found = [
            self._copy(part, columns, int(sizes[part].sum())) for part in _launches(sizes.tolist(), most)
        ]
        keys, places = zip(*found, strict=True)
        return Found(torch.cat(keys), torch.cat(places), new)

    def _copy(self, part: slice, columns: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
        """Copy the keys and places of some segments, which are `size`."""
        from dsprune.kernels.triton_kernels import BLOCK

        blocks = (self.numels[part] + int(BLOCK) - 1) // int(BLOCK)
        used = [1, 2 * int(blocks.sum()), size, -(-size // 2)]  # a place in a block has two bytes
        parts = [-(-count // 4) * 4 for count in used]  # from 16 bytes on: others would be compiled for apart
        buffer = torch.empty(sum(parts), dtype=torch.int32, device=self._device)
        cursor, begins, keys, places = buffer.split(parts)
        output = cursor.zero_(), begins, keys, places.view(torch.int16)
        self._start("copy_kernel", int(BLOCK), self.numels[part], columns, *output, part=part)
        _, begins, keys, places = _fetch(buffer).split(parts)
        return _in_order(begins[: used[1]].view(-1, 2), keys[:size], places.view(torch.int16), blocks)

    def _start(
        self,
        kernel: str,
        block: int,
        sizes: Tensor,
        columns: dict[str, Tensor],
        *output: Tensor,
        part: slice = slice(None),
    ) -> None:
        """Launch a kernel over some segments with their numbers of weights, given other columns of the table."""
        from dsprune.kernels import triton_kernels

        owners, first_blocks = _owners(tuple(sizes.tolist()), block, self._device)
        rows = torch.zeros((len(sizes), int(triton_kernels.COLUMNS)), dtype=torch.int64)
        for name, values in (self._columns | columns).items():
            rows[:, int(getattr(triton_kernels, name))] = values[part]
        rows[:, int(triton_kernels.NUMEL)] = sizes
        rows[:, int(triton_kernels.FIRST_BLOCK)] = first_blocks
        _launch(kernel, owners, _to(rows, self._device), owners, *output, **self._types)


def prune_(kept: Sequence[Tensor], owners: Tensor, places: Tensor) -> None:
    """Prune weights in packed masks.

    Args:
        kept: the masks.
        owners: number of the mask of each weight, on the CPU.
        places: its place there, on the CPU.
    """
    from dsprune.kernels.triton_kernels import SAMPLES

    if places.numel():
        addresses = places + 8 * torch.tensor([bits.data_ptr() for bits in kept])[owners]
        blocks = torch.empty(-(-places.numel() // int(SAMPLES)), device="meta")
        _launch("prune_kernel", blocks, _to(addresses, kept[0].device), places.numel())


def _launches(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Yield the segments of each launch: as many as have at most `most` keys inside, and at least one."""
    begin = total = 0
    for place, count in enumerate(sizes):
        if place > begin and total + count > most:
            yield slice(begin, place)
            begin, total = place, 0
        total += count
    yield slice(begin, len(sizes))


def _in_order(parts: Tensor, keys: Tensor, places: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Put what blocks have copied in the order of the weights.

    Args:
        parts: number of keys of each block, and where they begin.
        keys: the keys.
        places: their places in their blocks.
        blocks: number of blocks of each segment.

    Returns:
        The keys, and their places in their segments.
    """
    from dsprune.kernels.triton_kernels import BLOCK

    copied, begins = parts.long().unbind(1)
    order = torch.arange(keys.numel()) + (begins - copied.cumsum(0) + copied).repeat_interleave(copied)
    numbers = torch.arange(len(parts)) - (blocks.cumsum(0) - blocks).repeat_interleave(blocks)
    return keys[order], places[order] + (int(BLOCK) * numbers).repeat_interleave(copied)


def _empty_masks(kept: Sequence[Tensor]) -> list[Tensor]:
    """Return uninitialized masks of the same sizes in one buffer, each from a multiple of four bytes on."""
    sizes = [-(-bits.numel() // 4) * 4 for bits in kept]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=kept[0].device)
    return [row[: bits.numel()] for row, bits in zip(buffer.split(sizes), kept, strict=True)]


def _launch(name: str, blocks: Tensor, *args: Any, **types: Any) -> None:
    """Launch a kernel with a program for each block, if there is one."""
    from dsprune.kernels import triton_kernels

    if blocks.numel():
        getattr(triton_kernels, name)[(blocks.numel(),)](*args, **types, num_warps=triton_kernels.WARPS)


def _types(given: Product, absolute: bool) -> dict[str, Any]:
    root = torch.int8 if given.root is None else given.root.dtype
    return {"VALUES_DTYPE": _type(given.first.dtype), "ROOT_DTYPE": _type(root), "ABSOLUTE": absolute}


@cache
def _type(dtype: torch.dtype) -> Any:
    """Return Triton's type."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))


def _word(size: int) -> Any:
    return _type(getattr(torch, WORD_OF_SIZE[size]))


@lru_cache(maxsize=32)
def _tables(
    addresses: tuple[tuple[int, int], ...], numels: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the table for masking some segments, and the segment of each block; those of the last steps are kept."""
    from dsprune.kernels.triton_kernels import BLOCK, COLUMNS

    owners, first_blocks = _owners(numels, int(BLOCK), device)
    rest = (0,) * (int(COLUMNS) - 6)
    rows = [
        (values, 0, kept, 0, numel, block, *rest)
        for (values, kept), numel, block in zip(addresses, numels, first_blocks.tolist(), strict=True)
    ]
    return _to(torch.tensor(rows, dtype=torch.int64), device), owners


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
    """Wait for the device, and copy from it."""
    return values.cpu()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
