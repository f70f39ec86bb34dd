"""Launches of the Triton kernels: one for all segments of a rank, and few waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsprune.kernels.product import Product

__all__ = ["Found", "is_accelerated", "mask_", "prune_", "sample", "scan"]

DEVICES = ("cuda",)
"""The types of device whose torch has Triton; ROCm's is "cuda" too."""

WORD_OF_SIZE = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


MOST_COPIED = 1 / 40
"""Share of all keys that one launch of a scan copies at most: they take 0.17 bytes a weight."""

ALWAYS_COPIED = 2**20
"""Keys that one launch may copy, however small the model."""


class Found(NamedTuple):
    """What a scan finds in a segment.

    Attributes:
        num_kept: number of weights that its mask keeps.
        num_nan: number of NaN scores.
        inside: the keys in the range, on the CPU, in the order of the weights.
        places: their indices in the segment, on the CPU.
        kept: the new packed mask.
    """

    num_kept: int
    num_nan: int
    inside: Tensor
    places: Tensor
    kept: Tensor


def is_accelerated(*tensors: Tensor) -> bool:
    """Return whether the kernels can work on these tensors."""
    return all(given.device.type in DEVICES and given.is_contiguous() for given in tensors) and _has_triton()


def mask_(kept: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set the pruned entries of 1-D tensors to zero, in place: one launch for each size of their entries."""
    for size in sorted({value.element_size() for value in values}):
        pairs = [pair for pair in zip(kept, values, strict=True) if pair[1].element_size() == size]
        numels = tuple(value.numel() for _, value in pairs)
        addresses = tuple((value.data_ptr(), 0, bits.data_ptr()) for bits, value in pairs)
        table, owners = _tables(addresses, numels, values[0].device)
        _launch("mask_kernel", owners, table, owners, DTYPE=_word(size))


def sample(
    products: Sequence[Product], absolute: bool, kept: Sequence[Tensor], parts: Sequence[slice]
) -> list[Tensor]:
    """Return the keys of every n-th weight of each segment, on the CPU. Waits for the device once.

    Args:
        products: the scores.
        absolute: whether to rank their absolute values.
        kept: the packed masks so far.
        parts: first weight, end and stride in each segment.
    """
    from dsprune.kernels.triton_kernels import SAMPLES

    device = kept[0].device
    counts = [
        len(range(*part.indices(given.first.numel()))) for given, part in zip(products, parts, strict=True)
    ]
    begins = torch.tensor([0, *counts]).cumsum(0).tolist()
    owners, first_blocks = _owners(tuple(counts), int(SAMPLES), device)
    rows = [
        (
            *_addresses(given, bits),
            0,
            count,
            block,
            _float_bits(given.scale),
            0,
            0,
            part.start,
            part.step,
            begin,
        )
        for given, bits, count, block, part, begin in zip(
            products, kept, counts, first_blocks, parts, begins[:-1], strict=True
        )
    ]
    keys = torch.empty(begins[-1], dtype=torch.int32, device=device)
    _launch("sample_kernel", owners, _upload(rows, device), owners, keys, **_types(products[0], absolute))
    return list(_fetch(keys).split(counts))


def scan(
    products: Sequence[Product],
    absolute: bool,
    kept: Sequence[Tensor],
    ranges: Sequence[tuple[int, int]],
    expected: Sequence[int],
) -> list[Found]:
    """Count and prune the keys of each segment below its range, and copy those inside.

    Waits for the device once for each launch. There are several where many keys are inside, to bound their memory.

    Args:
        products: the scores.
        absolute: whether to rank their absolute values.
        kept: the packed masks so far, which are not changed.
        ranges: first and last key of each range.
        expected: about how many keys are inside each range; if they are many more, the scan is repeated.
    """
    new, found = _empty_masks(kept), []
    most = max(ALWAYS_COPIED, int(MOST_COPIED * sum(given.first.numel() for given in products)))
    for part in _launches(expected, most):
        found += _scan(products[part], absolute, kept[part], new[part], ranges[part], sum(expected[part]))
    return found


def _launches(expected: Sequence[int], most: int) -> Iterator[slice]:
    """Yield the segments of each launch: as many as have at most `most` keys inside, and at least one."""
    begin = total = 0
    for place, count in enumerate(expected):
        if place > begin and total + count > most:
            yield slice(begin, place)
            begin, total = place, 0
        total += count
    yield slice(begin, len(expected))


def _scan(
    products: Sequence[Product],
    absolute: bool,
    kept: Sequence[Tensor],
    new: Sequence[Tensor],
    ranges: Sequence[tuple[int, int]],
    expected: int,
) -> list[Found]:
    """Scan some segments in one launch, see `scan`; `new` are their new masks."""
    from dsprune.kernels.triton_kernels import BLOCK, STATS

    device = kept[0].device
    numels = tuple(given.first.numel() for given in products)
    owners, first_blocks = _owners(numels, int(BLOCK), device)
    rows = [
        (*_addresses(given, bits), row.data_ptr(), numel, block, _float_bits(given.scale), low, high, 0, 0, 0)
        for given, bits, row, numel, block, (low, high) in zip(
            products, kept, new, numels, first_blocks, ranges, strict=True
        )
    ]
    table, types = _upload(rows, device), _types(products[0], absolute)
    num_stats = int(STATS) * owners.numel()
    capacity = expected + expected // 8 + int(BLOCK)
    while True:
        sizes = [1, num_stats, capacity, -(-capacity // 2)]  # a place in a block has two bytes
        buffer = torch.empty(sum(sizes), dtype=torch.int32, device=device)
        buffer[0] = 0
        cursor, stats, inside, places = buffer.split(sizes)
        found = cursor, stats, inside, places.view(torch.int16)
        _launch("scan_kernel", owners, table, owners, *found, capacity, **types)
        cursor, stats, inside, places = _fetch(buffer).split(sizes)
        if int(cursor) <= capacity:
            break
        capacity = int(cursor)
    return _by_segment(stats.view(-1, int(STATS)), inside, places.view(torch.int16), numels, new)


def prune_(kept: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    """Prune the weights at some places of each packed mask; `places` are on the CPU."""
    from dsprune.kernels.triton_kernels import SAMPLES

    addresses = torch.cat([at + 8 * bits.data_ptr() for bits, at in zip(kept, places, strict=True)])
    if addresses.numel():
        blocks = -(-addresses.numel() // int(SAMPLES))
        given = _to(addresses, kept[0].device)
        _launch("prune_kernel", torch.empty(blocks, device="meta"), given, given.numel())


def _by_segment(
    stats: Tensor, inside: Tensor, places: Tensor, numels: Sequence[int], kept: Sequence[Tensor]
) -> list[Found]:
    """Put what the blocks have found in the order of the weights, and divide it among the segments."""
    from dsprune.kernels.triton_kernels import BLOCK

    kept_of, nans, copied, begins = stats.long().unbind(1)
    order = torch.arange(int(copied.sum())) + (begins - copied.cumsum(0) + copied).repeat_interleave(copied)
    blocks = [-(-numel // int(BLOCK)) for numel in numels]
    firsts = torch.cat([torch.arange(count) * int(BLOCK) for count in blocks])
    keys, at = inside[order], places[order].long() + firsts.repeat_interleave(copied)
    sums = torch.stack([part.sum(1) for part in torch.stack([kept_of, nans, copied]).split(blocks, 1)])
    sizes = sums[:, 2].tolist()
    return [
        Found(num_kept, num_nan, own, where, bits)
        for (num_kept, num_nan, _), own, where, bits in zip(
            sums.tolist(), keys.split(sizes), at.split(sizes), kept, strict=True
        )
    ]


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


def _addresses(given: Product, kept: Tensor) -> tuple[int, int, int]:
    return given.first.data_ptr(), 0 if given.root is None else given.root.data_ptr(), kept.data_ptr()


def _float_bits(number: float) -> int:
    return int(torch.tensor(number, dtype=torch.float32).view(torch.int32))


@lru_cache(maxsize=32)
def _tables(
    addresses: tuple[tuple[int, ...], ...], numels: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the table of some segments, and the segment of each block; those of the last steps are kept."""
    from dsprune.kernels.triton_kernels import BLOCK, COLUMNS

    owners, first_blocks = _owners(numels, int(BLOCK), device)
    rest = (0,) * (int(COLUMNS) - 6)
    rows = [
        (*given, 0, numel, block, *rest)
        for given, numel, block in zip(addresses, numels, first_blocks, strict=True)
    ]
    return _upload(rows, device), owners


@lru_cache(maxsize=32)
def _owners(numels: tuple[int, ...], block: int, device: torch.device) -> tuple[Tensor, list[int]]:
    """Return the segment of each block, and the first block of each segment."""
    counts = torch.tensor([-(-numel // block) for numel in numels])
    owners = torch.arange(len(numels), dtype=torch.int32).repeat_interleave(counts)
    return _to(owners, device), (counts.cumsum(0) - counts).tolist()


def _upload(rows: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    return _to(torch.tensor(rows, dtype=torch.int64), device)


def _to(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def _fetch(values: Tensor) -> Tensor:
    """Wait for the device, and copy from it."""
    return values.cpu()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
