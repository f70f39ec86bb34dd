"""A sample's name in the store: a hash of what the model reads of it."""

import hashlib
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

__all__ = ["FINGERPRINT", "dataset_fingerprint", "fingerprint", "fingerprints"]

FINGERPRINT = np.dtype("V16")
"""128 bits, ordered byte by byte."""


MASK = "attention_mask"


def fingerprint(features: Mapping[str, Any]) -> bytes:
    """The first 128 bits of SHA-256 over a sample's features.

    It does not depend on the order of the features, on padding (what the attention mask leaves out, of every
    feature with an entry a token), or on how integers are stored. A mask of ones is as good as none.

    Args:
        features: what the model reads, by name: numbers, arrays, or sequences of sequences (choices). Labels
            are left out by the caller; where they decide which positions count, those positions go in.
    """
    digest = hashlib.sha256(b"dsprune sample 1")
    mask = _rows(features.get(MASK, ()))
    is_padded = not all(kept.all() for kept in mask)
    for name in sorted(features):
        if name != MASK:
            rows = _rows(features[name])
            if is_padded and len(rows) == len(mask):
                rows = [_without_padding(row, kept) for row, kept in zip(rows, mask, strict=True)]
            kind = "<f8" if any(row.dtype.kind == "f" and row.size for row in rows) else "<i8"
            digest.update(f"\n{len(name)} {name} {kind} {[row.shape for row in rows]}\n".encode())
            for row in rows:
                digest.update(row.astype(kind).tobytes())
    return digest.digest()[: FINGERPRINT.itemsize]


def fingerprints(columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """`fingerprint` of every sample of a dataset, given by columns: `FINGERPRINT[samples]`."""
    samples = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return np.frombuffer(b"".join(map(fingerprint, samples)), dtype=FINGERPRINT)


def _rows(value: Any) -> list[np.ndarray]:
    """The value as arrays; sequences of sequences, which may differ in length, as an array each."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Sized):
        return [np.asarray(row) for row in value]
    array = np.asarray(value)
    return list(array) if array.ndim == 2 else [array]


def _without_padding(row: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return row[kept != 0] if row.shape == kept.shape else row


def dataset_fingerprint(samples: np.ndarray) -> str:
    """SHA-256 over the samples' fingerprints, in whatever order and however often they come."""
    return hashlib.sha256(np.unique(samples).tobytes()).hexdigest()
