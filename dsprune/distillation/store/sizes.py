"""The plan of a store: its records, shards and size, known before the teacher runs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.format import FINGERPRINT, StoreSpec
from dsprune.errors import UserError
from dsprune.utils.dtypes import DTYPES

__all__ = ["SHARD_BYTES", "StorePlan", "plan_store"]

SHARD_BYTES = 64 * 2**20
"""Size of a shard of large records."""

SHARD_RECORDS = 1024
"""Number of records in a shard of small records, which then takes about the same time. A killed rank loses at most one
shard."""

OFFSET_BYTES = LEADING_BYTES = 8


@dataclass(frozen=True)
class StorePlan:
    """The records of a store, in the order of their fingerprints, and their division into shards.

    This order is practically random: shards take the same time to compute, the store does not depend on the order of
    the dataset, and a record is found by bisection.

    Attributes:
        spec: the specification of the store.
        origin: fingerprints of teacher, tokenizer, dataset, preprocessing and other inputs.
        fingerprints: `[records]`, the fingerprints of the records, sorted and unique.
        samples: `[records]`, index in the dataset of the first sample with the record's fingerprint.
        rows: `[records]` for each output, number of rows of each record.
        bounds: `[shards + 1]`; shard i holds records `bounds[i]` to `bounds[i + 1]`.
    """

    spec: StoreSpec
    origin: Mapping[str, str]
    fingerprints: np.ndarray
    samples: np.ndarray
    rows: Mapping[str, np.ndarray]
    bounds: np.ndarray

    @property
    def num_records(self) -> int:
        """Number of records."""
        return len(self.fingerprints)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.bounds) - 1

    @property
    def num_rows(self) -> int:
        """Number of rows of all outputs together: the number of tokens if each token has a row."""
        return sum(int(rows.sum()) for rows in self.rows.values())

    @property
    def head_bytes(self) -> int:
        """Bytes of the last layers that kind `hidden` stores once, all outputs together."""
        return sum(
            output.classes * (output.hidden + 1) * DTYPES[self.spec.head_dtype].itemsize
            for output in self.spec.outputs.values()
            if output.hidden is not None
        )

    @property
    def record_bytes(self) -> int:
        """Bytes of all records, with their fingerprints and offsets, and of the index."""
        ends = OFFSET_BYTES * self.num_shards * len(self.rows)
        index = (FINGERPRINT.itemsize + LEADING_BYTES) * self.num_records + OFFSET_BYTES * (
            2 * self.num_shards + 1
        )
        return int(_record_bytes(self.spec, self.rows).sum()) + ends + index

    @property
    def num_bytes(self) -> int:
        """Bytes of the store without the manifest and the files' headers, of a few hundred bytes each."""
        return self.record_bytes + self.head_bytes

    @property
    def bytes_per_record(self) -> float:
        """Mean bytes of a record, without the heads."""
        return self.record_bytes / self.num_records

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole plan: stores with the same digest have the same records in the same places."""
        digest = hashlib.sha256(
            json.dumps([self.spec.model_dump(), dict(self.origin)], sort_keys=True).encode()
        )
        digest.update(self.fingerprints.view(np.uint8).data)
        for name in sorted(self.rows):
            digest.update(self.rows[name].astype("<i8").tobytes())
        digest.update(self.bounds.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def header(self) -> dict[str, Any]:
        """The fields that every file of the store has in its header."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "origin": dict(self.origin),
            "plan": self.digest,
            "num_records": self.num_records,
            "num_rows": {name: int(rows.sum()) for name, rows in self.rows.items()},
        }

    def records(self, shard: int) -> slice:
        """Return the records of a shard."""
        return slice(int(self.bounds[shard]), int(self.bounds[shard + 1]))


def plan_store(
    spec: StoreSpec,
    origin: Mapping[str, str],
    fingerprints: np.ndarray,
    rows: Mapping[str, np.ndarray] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> StorePlan:
    """Plan the store of a dataset.

    Args:
        spec: the specification of the store.
        origin: see `StorePlan`.
        fingerprints: `[samples]`, the fingerprint of each sample.
        rows: `[samples]` for each output, number of rows of each sample; None = one each.
        shard_bytes: approximate size of a shard.

    Raises:
        UserError: there are no samples, or samples with the same fingerprint have different numbers of rows.
    """
    if not len(fingerprints):
        raise UserError("dataset: no samples: a store needs at least one")
    unique, samples, records = np.unique(fingerprints, return_index=True, return_inverse=True)
    rows_of_samples = {
        name: np.ones(len(fingerprints), np.int64) if rows is None else np.asarray(rows[name], np.int64)
        for name in sorted(spec.outputs)
    }
    for name, counts in rows_of_samples.items():
        differ = counts != counts[samples][records]
        if differ.any():
            sample = int(differ.argmax())
            first = int(samples[records[sample]])
            raise UserError(
                f"dataset: samples {first} and {sample} have the same fingerprint, but {counts[first]} and "
                f"{counts[sample]} rows of {name}: include what decides the number of rows in the task's samples()"
            )
    rows_of_records = {name: counts[samples] for name, counts in rows_of_samples.items()}
    bounds = _cut(_record_bytes(spec, rows_of_records), shard_bytes)
    return StorePlan(spec, dict(origin), unique, samples, rows_of_records, bounds)


def _record_bytes(spec: StoreSpec, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the bytes of each record, `[records]`, with its fingerprint and offsets."""
    num_bytes = np.full(len(next(iter(rows.values()))), FINGERPRINT.itemsize + OFFSET_BYTES * len(rows))
    for name, counts in rows.items():
        columns = codec_for(spec, spec.outputs[name]).columns.values()
        num_bytes += counts * sum(column.row_bytes for column in columns)
    return num_bytes


def _cut(record_bytes: np.ndarray, shard_bytes: int) -> np.ndarray:
    """Return the bounds of shards of about `shard_bytes`, with at least one record each.

    A record counts for at least 1 / `SHARD_RECORDS` of a shard. In a store with more than `SHARD_RECORDS` such shards
    it counts for less, so that there are about `SHARD_RECORDS` shards.
    """
    least = (
        shard_bytes // SHARD_RECORDS * SHARD_RECORDS // max(SHARD_RECORDS, len(record_bytes) // SHARD_RECORDS)
    )
    record_bytes = np.maximum(record_bytes, least)
    begins = np.cumsum(record_bytes) - record_bytes
    _, firsts = np.unique(begins // shard_bytes, return_index=True)
    return np.append(firsts, len(record_bytes))
