"""The format of a store: the specification of its content, the names of its files, and the manifest.

Samples are identified by fingerprints, hashes of what the model reads.
"""

import hashlib
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from dsprune.errors import UserError
from dsprune.recipe.sections import STORE_MANIFEST
from dsprune.utils.dtypes import DTYPES
from dsprune.utils.records import Count, FileName, Record, read_record

__all__ = [
    "FINGERPRINT",
    "HEAD_FILE",
    "INDEX_FILE",
    "MANIFEST",
    "FileEntry",
    "Kind",
    "Output",
    "StoreManifest",
    "StoreSpec",
    "check_origin",
    "dataset_fingerprint",
    "fingerprint",
    "fingerprints",
    "read_manifest",
    "shard_name",
]

Kind = Literal["full", "topk", "hidden"]

MANIFEST = STORE_MANIFEST

HEAD_FILE = "head.safetensors"

INDEX_FILE = "index.safetensors"

FINGERPRINT = np.dtype("V16")
"""128 bits, ordered byte by byte."""

MASK = "attention_mask"


class Output(Record):
    """One output of the teacher; a record holds a block of its rows, each one softmax over the classes.

    Attributes:
        classes: width of a row. Narrower rows are padded with -inf.
        hidden: kind `hidden`: width of the last linear layer's input.
    """

    classes: int = Field(ge=1)
    hidden: int | None = Field(default=None, ge=1)


class StoreSpec(Record):
    """The content of a store, and its types.

    Attributes:
        kind: `full`: all logits. `topk`: the k largest logits and the total mass of the rest. `hidden`: the input of
            the last linear layer, and once that layer.
        outputs: the teacher's outputs by name.
        dtype: type of the logits or hidden states. `packed`, kind `topk` only: see packed.py.
        k: kind `topk`: number of logits per row; all of them if there are fewer classes.
        temperatures: kind `topk`: temperatures at which the mass of the rest is stored.
        head_dtype: kind `hidden`: type of the layer's weights.
    """

    kind: Kind
    outputs: dict[str, Output] = Field(min_length=1)
    dtype: Literal["fp32", "fp16", "bf16", "packed"] = "fp16"
    k: int | None = Field(default=None, ge=1)
    temperatures: tuple[float, ...] = ()
    head_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "topk") != (self.k is not None and bool(self.temperatures)):
            raise ValueError("k and temperatures: kind topk needs both, other kinds take neither")
        if self.dtype == "packed" and self.kind != "topk":
            raise ValueError("dtype: packed is a form of kind topk only")
        if any(temperature <= 0 for temperature in self.temperatures):
            raise ValueError("temperatures: must be above 0")
        if any((self.kind == "hidden") != (output.hidden is not None) for output in self.outputs.values()):
            raise ValueError(
                "hidden: each output of kind hidden needs this width, other kinds do not take it"
            )
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as a torch type."""
        return DTYPES[self.dtype]

    @property
    def torch_head_dtype(self) -> torch.dtype:
        """`head_dtype` as a torch type."""
        return DTYPES[self.head_dtype]


class FileEntry(Record):
    """One file of a store; `seal` is the SHA-256 of its header, which holds the SHA-256 of the rest."""

    file: FileName
    seal: str


class StoreManifest(Record):
    """The content of `store.json`.

    Attributes:
        spec: the specification of the store.
        origin: fingerprints of teacher, tokenizer, dataset and preprocessing.
        plan: digest of the plan; the same in every file.
        num_records: number of records, each of a different sample.
        num_rows: number of rows of each output.
        shards: files with the records, in ascending order of fingerprint.
        head: kind `hidden`: file with the last layers.
        index: file with the fingerprints of all records; None in format 1.
    """

    format: Literal[1, 2] = 2
    spec: StoreSpec
    origin: dict[str, str]
    plan: str
    num_records: Count
    num_rows: dict[str, Count]
    shards: tuple[FileEntry, ...]
    head: FileEntry | None
    index: FileEntry | None = None

    @property
    def header(self) -> dict[str, Any]:
        """The fields that every file of the store repeats in its header."""
        return self.model_dump(mode="json", exclude={"format", "shards", "head", "index"})


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def read_manifest(folder: Path) -> StoreManifest:
    """Read `store.json`.

    Raises:
        UserError: the manifest is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        what = f"not a complete store, {MANIFEST} is missing" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}: run `dsprune teacher` to the end")
    return read_record(path, StoreManifest, "a manifest of format 1 or 2", "use another store")


def check_origin(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check that properties of a store are the expected ones.

    Args:
        folder: the store, for messages.
        found: properties of the store by name, for example the fingerprint of its teacher.
        expected: the properties to compare, by name.

    Raises:
        UserError: one or more differ; each is named with both values.
    """
    differences = [
        f"{name} is {found.get(name, 'unknown')} in the store and {value} here"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if differences:
        raise UserError(
            f"{folder}: the store does not match: {'; '.join(differences)}: make a store for this recipe"
        )


def fingerprint(features: Mapping[str, Any]) -> bytes:
    """Return the first 128 bits of SHA-256 over a sample's features.

    The fingerprint does not depend on the order of the features, on padding (the positions that the attention mask
    excludes, in every feature with one entry per token), or on the type of integers. A mask of ones is equivalent to
    no mask.

    Args:
        features: the model's inputs by name: numbers, arrays, or sequences of sequences (choices). The caller leaves
            out labels; if labels decide which positions count, the caller includes these positions.
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
