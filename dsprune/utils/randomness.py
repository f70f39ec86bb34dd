"""The random number generators of the process: seed them, save their state and restore it."""

import hashlib
import math
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["hash_text", "mix64", "random_state", "restore_random_state", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Tensor]:
    """Return the state of the generators of Python, NumPy, torch and the accelerator."""
    _, words, spare = random.getstate()
    _, keys, position, has_spare, numpy_spare = np.random.get_state()
    spares = [math.nan if spare is None else spare, numpy_spare if has_spare else math.nan]
    state = {
        "random.python": torch.tensor(words),
        "random.numpy": torch.tensor([*map(int, keys), int(position)]),
        "random.gauss": torch.tensor(spares, dtype=torch.float64),
        "random.torch": torch.get_rng_state(),
    }
    if torch.accelerator.is_available():
        state["random.accelerator"] = torch.get_device_module().get_rng_state().cpu()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Set the generators to a state that `random_state` returned."""
    # Python and NumPy draw normal numbers in pairs and keep the second one for the next call; NaN = none is kept.
    spare, numpy_spare = state["random.gauss"].tolist()
    random.setstate((3, tuple(state["random.python"].tolist()), None if math.isnan(spare) else spare))
    *keys, position = state["random.numpy"].tolist()
    has_spare = not math.isnan(numpy_spare)
    words = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", words, position, int(has_spare), numpy_spare if has_spare else 0.0))
    torch.set_rng_state(state["random.torch"])
    if torch.accelerator.is_available() and "random.accelerator" in state:
        torch.get_device_module().set_rng_state(state["random.accelerator"])


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
