"""Twins of the kernels: compiled C functions that do the same on a CPU, and count the bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsprune.kernels import triton_kernels
from dsprune.kernels.cpu import VECTOR, Kernel, _Product, kernel_for
from dsprune.selection.search import BINS

__all__ = ["TWINS"]

BLOCK = int(triton_kernels.BLOCK)


def columns(table: Tensor) -> list[dict[str, int]]:
    """Return the rows of a table by the names of its columns."""
    names = ("VALUES", "KEPT", "OUTPUT", "NUMEL", "LOW", "HIGH", "BIN_BITS", "START", "STRIDE", "QUOTA")
    return [{name: row[int(getattr(triton_kernels, name))] for name in names} for row in table.tolist()]


def library() -> Any:
    """Return the compiled functions."""
    kernel = kernel_for(torch.ones(1))
    assert isinstance(kernel, Kernel), "no working C compiler"
    return kernel._library


def mask_twin(table: Tensor, owners: Tensor, DTYPE: Any) -> int:  # noqa: N803
    """Run the twin of `mask_kernel`, and return the bytes that it reads and writes."""
    size = DTYPE.primitive_bitwidth // 8
    apply = library().apply_32 if size == 4 else library().apply_16
    rows = columns(table)
    for row in rows:
        apply(row["KEPT"], row["VALUES"], row["NUMEL"])
    return table.nbytes + owners.nbytes + sum(2 * size * row["NUMEL"] + -(-row["NUMEL"] // 8) for row in rows)


def sample_twin(table: Tensor, owners: Tensor, **_: Any) -> int:
    """Run the twin of `sample_kernel`; it reads a sector of 32 bytes for a weight, and one for its mask."""
    total = 0
    for row in columns(table):
        scores = ctypes.byref(_Product(row["VALUES"], None, 1.0, 1))
        library().sample(scores, row["KEPT"], row["START"], row["STRIDE"], row["NUMEL"], row["OUTPUT"])
        total += row["NUMEL"]
    return table.nbytes + owners.nbytes + 68 * total


class Scanned(NamedTuple):
    """The result of a scan of a segment."""

    num_kept: int
    num_nan: int
    keys: Any
    places: Any


def scanned(row: dict[str, int], new: int) -> Scanned:
    """Scan a segment, and write its mask to the address `new`."""
    found, at = np.empty((2, row["NUMEL"] + VECTOR), np.int32)
    below, nan = ctypes.c_int64(), ctypes.c_int64()
    copied = library().scan(
        ctypes.byref(_Product(row["VALUES"], None, 1.0, 1)), row["KEPT"], row["NUMEL"], row["LOW"], row["HIGH"],
        new, found.ctypes.data, at.ctypes.data, ctypes.byref(below), ctypes.byref(nan),
    )  # fmt: skip
    return Scanned(row["NUMEL"] - below.value, nan.value, found[:copied], at[:copied])


def count_twin(table: Tensor, owners: Tensor, **_: Any) -> int:
    """Run the twin of `count_kernel`; each key in the range, or bin of a full block, takes a sector of 32 bytes."""
    total = added = 0
    for row, given in zip(columns(table), table, strict=True):
        scratch = np.empty(-(-row["NUMEL"] // 8), np.uint8)
        found = scanned(row, scratch.ctypes.data)
        bins = (found.keys.astype(np.int64) - row["LOW"]) >> row["BIN_BITS"]
        counts = given.numpy()[int(triton_kernels.COLUMNS) :]
        counts += [found.num_kept, found.num_nan, *np.bincount(bins, minlength=BINS)]
        total += row["NUMEL"]
        in_blocks = np.bincount(found.places // BLOCK)
        added += int(np.where(in_blocks > int(triton_kernels.FEW), BINS, in_blocks).sum())
    return table.nbytes + owners.nbytes + 4 * total + total // 8 + 64 * added


def settle_twin(table: Tensor, owners: Tensor, ties: Tensor, IS_PARTED: bool, **_: Any) -> int:  # noqa: N803
    """Run the twin of `settle_kernel`."""
    total = begin = 0
    for row in columns(table):
        blocks = slice(begin, begin + -(-row["NUMEL"] // BLOCK))
        begin = blocks.stop
        if IS_PARTED and row["QUOTA"] <= 0:
            continue
        total += row["NUMEL"]
        found = scanned(row | {"HIGH": row["LOW"]}, row["OUTPUT"])
        sizes = np.bincount(found.places // BLOCK, minlength=blocks.stop - blocks.start)
        if IS_PARTED:
            sums = ties.numpy()[blocks]
            assert (sums - sums[0] == sizes.cumsum() - sizes[0]).all()
            clear(row["OUTPUT"], found.places[: row["QUOTA"]])
        else:
            ties.numpy()[blocks] = sizes
            clear(row["OUTPUT"], found.places[: None if row["QUOTA"] else 0])
    return table.nbytes + owners.nbytes + ties.nbytes + 4 * total + total // 4


def clear(address: int, places: Any) -> None:
    """Clear the bits of a packed mask at some places."""
    if len(places):
        memory = (ctypes.c_uint8 * int(places.max() // 8 + 1)).from_address(address)
        bits = ~(1 << (places & 7)).astype(np.uint8)
        np.bitwise_and.at(np.ctypeslib.as_array(memory), places >> 3, bits)


TWINS: dict[str, Callable[..., int]] = {
    "mask_kernel": mask_twin,
    "sample_kernel": sample_twin,
    "count_kernel": count_twin,
    "settle_kernel": settle_twin,
}
