"""Which rows become examples, and whether the tokenizer makes something of each."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from dsprune.errors import UserError
from dsprune.tasks.source import Split

__all__ = ["check_tokens", "spread", "tokens_in"]


def tokens_in(data: Dataset) -> np.ndarray:
    """Return the different tokens in the inputs of encoded examples.

    Raises:
        UserError: the examples have no inputs of tokens.
    """
    if "input_ids" not in data.column_names:
        raise UserError("model.vocabulary: value used: the task's examples have no input_ids: set all")
    column = data.data.column("input_ids")
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    tokens: np.ndarray = pc.unique(column).to_numpy()
    return tokens


def check_tokens(data: Dataset, split: Split) -> None:
    """Check that every example has a token, and every output that is a sequence: some tokenizers add nothing."""
    if not len(data):
        raise UserError(f"task.{split}: the tokenizer makes no example of it: give more text")
    lengths = data["length"][:]
    if 0 in lengths:
        raise UserError(
            f"task.{split}: example {lengths.index(0) + 1}: the tokenizer makes no token of it: leave it out"
        )
    labels = data["labels"][:] if "labels" in data.column_names else []
    if [] in labels:
        raise UserError(
            f"task.{split}: example {labels.index([]) + 1}: the tokenizer makes no token of its output: leave it out"
        )


def spread(rows: Dataset, limit: int | None) -> Dataset:
    """Return at most `limit` rows, spread evenly: the first rows of a sorted file would mislead."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select([i * len(rows) // limit for i in range(limit)])
