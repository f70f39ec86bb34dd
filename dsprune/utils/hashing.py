"""Hashes of numbers and texts that are the same in every process."""

import hashlib

from torch import Tensor

__all__ = ["hash_text", "mix64"]


def mix64(numbers: Tensor) -> Tensor:
    """Mix the bits of int64 numbers one to one (the finalizer of SplitMix64)."""
    mixed = (numbers ^ _shift_right(numbers, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift_right(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shift_right(mixed, 31)


def hash_text(text: str) -> int:
    """Return a signed 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift_right(numbers: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign bit."""
    return (numbers >> count) & ((1 << (64 - count)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64)
