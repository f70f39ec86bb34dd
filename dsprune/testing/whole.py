"""Gather whole tensors from all ranks: masks, master weights and moments."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.engine.engine import PruningEngine
from dsprune.masks.bits import unpack
from dsprune.model.shard import PrunableTensor
from dsprune.zero.layout import ZeroLayout
from dsprune.zero.parameters import full_shape
from dsprune.zero.stages import open_layout

__all__ = ["gather", "whole_marks", "whole_masks", "whole_parameters"]


def gather(layout: ZeroLayout, local: Callable[[int], Tensor]) -> list[Tensor]:
    """Return whole tensors, flattened. Collective: every rank must call this.

    Args:
        layout: knows the slices.
        local: returns this rank's slice of a tensor.
    """
    pieces = [
        (i, shard.start, local(i).double().clone()) for i, shard in enumerate(layout.shards) if shard.numel
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, pieces)
    whole = [torch.full((shard.tensor.numel,), torch.nan, dtype=torch.double) for shard in layout.shards]
    for i, start, piece in (piece for pieces in everyone for piece in pieces):
        whole[i][start : start + piece.numel()] = piece
    assert not any(tensor.isnan().any() for tensor in whole), "the slices leave holes"
    return whole


def whole_masks(pruner: PruningState) -> list[Tensor]:
    """Return the masks, flattened. Collective: every rank must call this."""
    shards, bits = pruner.layout.shards, pruner.masks.bits
    return [row.bool() for row in gather(pruner.layout, lambda i: unpack(bits[i], shards[i].numel))]


def whole_marks(pruner: PruningState) -> list[Tensor]:
    """Return the marks of regrown weights, flattened. Collective: every rank must call this."""
    shards, marks = pruner.layout.shards, pruner.masks.regrown
    return [row.bool() for row in gather(pruner.layout, lambda i: unpack(marks[i], shards[i].numel))]


def whole_parameters(engine: PruningEngine) -> dict[str, dict[str, Tensor]]:
    """Return master weights and moments of every parameter, prunable or not. Collective: every rank must call this."""
    tensors = [
        PrunableTensor(name, full_shape(parameter)) for name, parameter in engine.module.named_parameters()
    ]
    layout = open_layout(engine, tensors)
    found = {"master weights": gather(layout, layout.weight)}
    for name in ("exp_avg", "exp_avg_sq"):
        found[name] = gather(layout, lambda i, name=name: layout.states(i)[name])  # type: ignore[misc]
    return {tensor.name: {what: found[what][i] for what in found} for i, tensor in enumerate(tensors)}
