"""Fingerprints: samples are identified in a store by a hash of what the model reads."""

import hashlib
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

__all__ = ["FINGERPRINT", "dataset_fingerprint", "fingerprint", "fingerprints"]

FINGERPRINT = np.dtype("V16")
"""128 bits, ordered byte by byte."""

MASK = "attention_mask"


def fingerprint(features: Mapping[str, Any]) -> bytes:
    """Return the first 128 bits of SHA-256 over a sample's features.

    The fingerprint does not depend on the order of the features, on padding (the positions that the attention mask
    excludes, in every feature with one entry per token), or on the type of integers. A mask of ones is equivalent to
    no mask.

    Args:
        features: what the model reads, by name: numbers, arrays, or sequences of sequences (choices). The caller
            leaves out labels; where labels decide which positions count, the caller includes these positions.
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
    """Return the `fingerprint` of every sample of a dataset, `[samples]` of type `FINGERPRINT`.

    Args:
        columns: the features of all samples, by name.
    """
    samples = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return np.frombuffer(b"".join(map(fingerprint, samples)), dtype=FINGERPRINT)


def dataset_fingerprint(samples: np.ndarray) -> str:
    """Return the SHA-256 of the set of fingerprints: order and repetitions do not matter."""
    return hashlib.sha256(np.unique(samples).tobytes()).hexdigest()


def _rows(value: Any) -> list[np.ndarray]:
    """Return the value as arrays: one, or one for each inner sequence, which may differ in length."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Sized):
        return [np.asarray(row) for row in value]
    array = np.asarray(value)
    return list(array) if array.ndim == 2 else [array]


def _without_padding(row: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return row[kept != 0] if row.shape == kept.shape else row
