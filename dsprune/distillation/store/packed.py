"""The packed form of the k largest logits: indices in the smallest number of bits, and the sorted logits as a curve.

The logits of a row, minus their maximum, fall from 0 along a smooth curve of their rank. The curve is stored as its
values at `NUM_KNOTS` ranks, one byte each; between them it is linear in the logarithm of the rank.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["NUM_KNOTS", "decode_curve", "encode_curve", "pack", "unpack"]

NUM_KNOTS = 6

DEEPEST = 64.0
"""Largest stored distance of a logit below the maximum of its row; larger distances are clipped."""


def encode_curve(values: Tensor) -> Tensor:
    """Return the knots of falling logits, `[rows, k]` to uint8 `[rows, NUM_KNOTS]`; each row begins with 0."""
    fit = torch.from_numpy(_fit(values.shape[1])).to(values)
    depth = (values.clamp(min=-DEEPEST) @ fit).neg().clamp(0, DEEPEST)
    # The distances grow with the square root of the depth: likely classes are the most accurate.
    return (depth / DEEPEST).sqrt().mul(255).round().to(torch.uint8)


def decode_curve(knots: Tensor, k: int) -> Tensor:
    """Return the logits of knots, `[rows, NUM_KNOTS]` to fp32 `[rows, k]`."""
    depth = DEEPEST * (knots.float() / 255).square()
    weights = torch.from_numpy(_weights(k)).to(depth)
    values: Tensor = torch.nn.functional.linear(-depth, weights)
    return values


@cache
def _weights(k: int) -> np.ndarray:
    """Return the weight of each knot in the logit of each rank, `[k, NUM_KNOTS]`."""
    ranks = np.log2(1 + np.arange(k))
    places = np.linspace(0, max(1.0, ranks[-1]), NUM_KNOTS + 1)
    return np.stack([np.interp(ranks, places, unit) for unit in np.eye(NUM_KNOTS + 1)[1:]], axis=1)


@cache
def _fit(k: int) -> np.ndarray:
    """Return the matrix `[k, NUM_KNOTS]` that fits the knots to logits; errors at higher ranks have less weight."""
    weight = 1 / (1 + np.arange(k))[:, None]
    return np.ascontiguousarray((np.linalg.pinv(weight * _weights(k)) * weight.T).T)


def pack(indices: Tensor, bits: int) -> Tensor:
    """Return the last `bits` bits of each index, one after the other: `[rows, k]` to uint8 `[rows, bytes]`."""
    places = torch.arange(bits, device=indices.device)
    digits = (indices.long()[..., None] >> places & 1).flatten(1)
    whole: Tensor = torch.nn.functional.pad(digits, (0, -digits.shape[1] % 8)).unflatten(1, (-1, 8))
    return (whole << torch.arange(8, device=indices.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, k: int) -> Tensor:
    """Return the indices that `pack` has packed, int32 `[rows, k]`, on the CPU."""
    digits = np.unpackbits(packed.numpy(), axis=1, count=k * bits, bitorder="little").reshape(-1, k, bits)
    whole = np.zeros((*digits.shape[:2], 32), dtype=np.uint8)
    whole[..., :bits] = digits
    return torch.from_numpy(np.packbits(whole, axis=-1, bitorder="little").view("<i4")[..., 0])
