"""Batches out of features: padding, by the libraries' own collators."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from dsprune.tasks.task import Batch, Collate, Features

__all__ = ["padded"]


def padded(pad: Callable[[list[dict[str, Any]]], Any], without: Collection[str] = ()) -> Collate:
    """A collate function that pads, and leaves out what the model does not read.

    Args:
        pad: one of transformers' data collators.
        without: columns that only `score` needs; the length is always left out.
    """
    left_out = {*without, "length"}

    def collate(features: Sequence[Features]) -> Batch:
        return dict(pad([{name: one[name] for name in one if name not in left_out} for one in features]))

    return collate
