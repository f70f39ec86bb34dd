"""Encoded examples, and batches of them."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from torch import Tensor

from dsprune.errors import UserError
from dsprune.tasks.source import Split

__all__ = [
    "LABELS",
    "Batch",
    "Collate",
    "Features",
    "check_tokens",
    "column_of",
    "data_digest",
    "map_rows",
    "on_device",
    "padding_collate",
    "spread",
    "tokens_in",
    "tokens_of",
    "without_labels",
]

LABELS = ("labels", "start_positions", "end_positions")
"""Columns with the targets of a model's outputs."""

Features = Mapping[str, Any]
"""One encoded example by column, from `Task.prepare`."""

Batch = dict[str, Tensor]
"""Inputs and labels of a forward pass, each `[examples, ...]`."""

Collate = Callable[[Sequence[Features]], Batch]
"""Makes a batch on the CPU from encoded examples."""


def tokens_in(data: Dataset) -> np.ndarray:
    """Return the different tokens in the inputs of encoded examples.

    Raises:
        UserError: the examples have no inputs of tokens.
    """
    if "input_ids" not in data.column_names:
        raise UserError("model.vocabulary: value used: the task's examples have no input_ids: set all")
    return np.unique(tokens_of(data))


def column_of(data: Dataset, name: str) -> np.ndarray:
    """Return a column of numbers, without building a Python list."""
    values: np.ndarray = _table(data).column(name).to_numpy()
    return values


def data_digest(data: Dataset) -> str:
    """Return a hash of all examples in their order, independent of how they are stored."""
    digest, table = hashlib.sha256(), _table(data)
    for name in sorted(table.column_names):
        digest.update(name.encode())
        values, lengths = _flat(table.column(name))
        for numbers in lengths:
            digest.update(numbers.tobytes())
        digest.update(values.tobytes() if values.dtype != object else repr(values.tolist()).encode())
    return digest.hexdigest()[:16]


def tokens_of(data: Dataset) -> np.ndarray:
    """Return all tokens in the inputs of encoded examples."""
    return _flat(_table(data).column("input_ids"))[0]


def _table(data: Dataset) -> pa.Table:
    """Return the examples in their order."""
    return data.flatten_indices().data if data._indices is not None else data.data


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the values of a column of numbers or nested lists, and the lengths of the lists of each depth."""
    lengths = []
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths.append(pc.list_value_length(column).to_numpy())
        column = pc.list_flatten(column)
    return column.to_numpy(), lengths


def check_tokens(data: Dataset, split: Split) -> None:
    """Check that every example and every output sequence has a token: some tokenizers add none to an empty text."""
    if not len(data):
        raise UserError(f"task.{split}: too little text for one example: give more text")
    lengths = data["length"][:]
    if 0 in lengths:
        raise UserError(f"task.{split}: example {lengths.index(0) + 1}: has no tokens: leave it out")
    labels = data["labels"][:] if "labels" in data.column_names else []
    if [] in labels:
        raise UserError(
            f"task.{split}: example {labels.index([]) + 1}: its output has no tokens: leave it out"
        )


def map_rows(rows: Dataset, function: Callable[..., Any], **kwargs: Any) -> Dataset:
    """Return `rows.map(function, **kwargs)`; results for data on disk are cached there.

    The name of the cache is a hash of the function, which takes as long as encoding ten thousand rows, because it
    pickles the tokenizer. Data in memory have no cache, so a random name is used.
    """
    name = None if rows.cache_files else generate_random_fingerprint()
    return rows.map(function, new_fingerprint=name, **kwargs)


def spread(rows: Dataset, limit: int | None) -> Dataset:
    """Return at most `limit` rows, spread evenly, because the first rows of a sorted file are not representative."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select([i * len(rows) // limit for i in range(limit)])


def padding_collate(
    collator: Callable[[list[dict[str, Any]]], Any], exclude: Collection[str] = ()
) -> Collate:
    """Return a collate function that pads, and drops the columns that the model does not read.

    Args:
        collator: one of transformers' data collators.
        exclude: columns that only `Task.score` needs; `length` is always dropped.
    """
    dropped = {*exclude, "length"}

    def collate(features: Sequence[Features]) -> Batch:
        return dict(collator([{name: one[name] for name in one if name not in dropped} for one in features]))

    return collate


def without_labels(batch: Batch) -> Batch:
    """Return the batch without its labels."""
    return {name: tensor for name, tensor in batch.items() if name not in LABELS}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
