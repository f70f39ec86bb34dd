"""A 64-bit mixing function on tensors, for random numbers and digests that do not depend on the sharding."""

import hashlib

from torch import Tensor

__all__ = ["hash_text", "mix64"]


def mix64(numbers: Tensor) -> Tensor:
    """Mixes the bits of int64 numbers, one to one (the finalizer of SplitMix64)."""
    mixed = (numbers ^ _shift_right(numbers, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift_right(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shift_right(mixed, 31)


def hash_text(text: str) -> int:
    """A signed 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift_right(numbers: Tensor, count: int) -> Tensor:
    """Shifts in zeros; torch shifts in the sign."""
    return (numbers >> count) & ((1 << (64 - count)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64)
