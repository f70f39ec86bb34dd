"""Batches: their types, padding, and the move to a device."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LABELS", "Batch", "Collate", "Features", "on_device", "padding_collate", "without_labels"]

LABELS = ("labels", "start_positions", "end_positions")
"""Columns that a model compares its outputs with."""

Features = Mapping[str, Any]
"""One encoded example by column, as `Task.prepare` makes it."""

Batch = dict[str, Tensor]
"""Inputs and labels of a forward pass, each `[examples, ...]`."""

Collate = Callable[[Sequence[Features]], Batch]
"""Makes a batch on the CPU of encoded examples."""


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
