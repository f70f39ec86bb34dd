"""Gather whole tensors from all ranks: masks, master weights and moments."""

from collections.abc import Callable, Mapping
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

__all__ = ["gather", "gather_views", "whole_marks", "whole_masks", "whole_parameters"]


def gather(layout: ZeroLayout, local: Callable[[int], Tensor]) -> list[Tensor]:
    """Return whole tensors, flattened. Collective: every rank must call this."""
    (whole,) = gather_views(layout, lambda i: {"": local(i)}).values()
    return whole


def gather_views(layout: ZeroLayout, local: Callable[[int], Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Return several whole views of the tensors by one exchange. Collective: every rank must call this.

    Args:
        layout: says where the slices lie.
        local: returns this rank's slices of a tensor, by the names of the views.
    """
    pieces = [
        (name, i, shard.start, values.double().numpy())
        for i, shard in enumerate(layout.shards)
        if shard.numel
        for name, values in local(i).items()
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, pieces)
    whole: dict[str, list[Tensor]] = {}
    for name, i, start, piece in (piece for pieces in everyone for piece in pieces):
        if name not in whole:
            whole[name] = [
                torch.full((one.tensor.numel,), torch.nan, dtype=torch.double) for one in layout.shards
            ]
        whole[name][i][start : start + len(piece)] = torch.from_numpy(piece)
    assert not any(tensor.isnan().any() for tensors in whole.values() for tensor in tensors), (
        "the slices leave holes"
    )
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
    found = gather_views(
        layout,
        lambda i: (
            {"master weights": layout.weight(i)}
            | {name: layout.states(i)[name] for name in ("exp_avg", "exp_avg_sq")}
        ),
    )
    return {tensor.name: {what: found[what][i] for what in found} for i, tensor in enumerate(tensors)}
