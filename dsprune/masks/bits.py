"""Packed masks with one bit per weight: bit j of byte i is weight 8 i + j, 1 = kept; bits after the end are 0.

The mask of a shard is local to the shard: bit 0 of byte 0 is the shard's first weight.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from dsprune.kernels.accelerator import is_accelerated, mask_
from dsprune.kernels.cpu import in_threads, kernel_for

__all__ = [
    "apply_",
    "apply_all_",
    "apply_eager_",
    "count_kept",
    "invert",
    "is_applied",
    "pack",
    "pick",
    "prune_",
    "unpack",
    "unpack_part",
]

INT_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}

CHUNK = 1 << 20  # weights at a time, so that temporaries stay in the cache
CHUNK_ACCELERATOR = 1 << 24  # launches are expensive

GATHER_LOW_BITS = 0x0102040810204080  # times a word of eight bytes of 0 or 1: their bits, in the highest byte


def num_bytes(num_weights: int) -> int:
    """Return the bytes of a packed mask."""
    return (num_weights + 7) // 8


def pack(mask: Tensor) -> Tensor:
    """Pack a 1-D boolean mask, True = kept, into `uint8[ceil(n / 8)]`."""
    padded = torch.nn.functional.pad(mask.view(torch.uint8), (0, -mask.numel() % 8))
    words = padded.contiguous().view(torch.int64)
    return (words * GATHER_LOW_BITS >> 56).to(torch.uint8)


def unpack(bits: Tensor, num_weights: int) -> Tensor:
    """Unpack to a boolean mask of `num_weights` weights."""
    return _rows(torch.bool, bits.device).index_select(0, bits.int()).view(-1)[:num_weights]


def unpack_part(bits: Tensor, first: int, last: int) -> Tensor:
    """Unpack to the boolean mask of the weights `[first, last)`."""
    start = first // 8
    return unpack(bits[start : num_bytes(last)], last - 8 * start)[first - 8 * start :]


def pick(bits: Tensor, part: slice, num_weights: int) -> Tensor:
    """Return the boolean mask of the weights in `part`, without unpacking the others."""
    indices = torch.arange(*part.indices(num_weights), device=bits.device)
    return (bits[indices // 8] >> (indices % 8).to(torch.uint8) & 1).bool()


def invert(bits: Tensor, num_weights: int) -> Tensor:
    """Return the inverted packed mask."""
    inverted = ~bits
    if num_weights % 8:
        inverted[-1] &= (1 << num_weights % 8) - 1
    return inverted


def prune_(bits: Tensor, places: Tensor) -> None:
    """Prune the weights at `places` in place; these must be kept so far, and distinct."""
    bits.index_add_(0, places >> 3, 1 << (places & 7).to(torch.uint8), alpha=-1)


def count_kept(bits: Tensor) -> int:
    """Return the number of kept weights."""
    ones = _rows(torch.bool, bits.device).sum(dim=1, dtype=torch.uint8)
    return sum(int(ones.index_select(0, chunk.int()).sum()) for chunk in bits.split(CHUNK))


@torch.no_grad()
def apply_(bits: Tensor, weights: Tensor) -> None:
    """Set the pruned entries of a 1-D floating-point tensor to +0.0 in place, also if they are -0.0 or NaN."""
    kernel = kernel_for(weights)
    if kernel is not None and weights.element_size() in (2, 4):
        kernel.apply_(bits, weights)
    else:
        apply_eager_(bits, weights)


@torch.no_grad()
def apply_all_(bits: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Apply several masks like `apply_`, on an accelerator in one launch per dtype."""
    if is_accelerated(*weights):
        mask_(bits, weights)
        return
    in_threads(apply_, zip(bits, weights, strict=True), weights)


@torch.no_grad()
def apply_eager_(bits: Tensor, weights: Tensor) -> None:
    """Apply a mask like `apply_`, on any device: each mask byte selects eight words, all ones where kept."""
    dtype = INT_OF_SIZE[weights.element_size()]
    rows = _rows(dtype, weights.device).neg()  # all ones where kept
    size = CHUNK if weights.device.type == "cpu" else CHUNK_ACCELERATOR
    for chunk, packed in zip(weights.split(size), bits.split(size // 8), strict=True):
        words = rows.index_select(0, packed.int()).view(-1)[: chunk.numel()]
        chunk.view(dtype).bitwise_and_(words)


def is_applied(bits: Tensor, weights: Tensor) -> Tensor:
    """Return whether `apply_` would change nothing, as a 0-dim tensor, so that the caller can delay the device wait."""
    dtype = INT_OF_SIZE[weights.element_size()]
    changed = torch.zeros((), dtype=torch.bool, device=weights.device)
    for chunk, packed in zip(weights.split(CHUNK), bits.split(CHUNK // 8), strict=True):
        masked = chunk.clone()
        apply_(packed, masked)
        changed |= (masked.view(dtype) != chunk.view(dtype)).any()
    return ~changed


@cache
def _rows(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask of each byte value, `[256, 8]`."""
    bytes_ = torch.arange(256, device=device).unsqueeze(1)
    return (bytes_ >> torch.arange(8, device=device) & 1).to(dtype)
