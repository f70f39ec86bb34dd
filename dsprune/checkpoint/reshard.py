"""Resharding: load a checkpoint of another ZeRO stage or number of ranks into an engine.

DeepSpeed itself loads a checkpoint only at the stage and on the number of ranks that wrote it. In all other cases
dsprune cuts this engine's slices of the master weights and moments out of DeepSpeed's files, parameter by parameter,
and rounds the working copies from them. No value is computed, so all values are the same, bit for bit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor
from torch.optim import Optimizer

from dsprune.checkpoint.deepspeed_files import (
    COUNTERS,
    CheckpointFiles,
    explain_damage,
    main_file,
    read_main_file,
)
from dsprune.errors import UserError
from dsprune.model.compiled import plain_name
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.zero.layout import ZeroLayout
from dsprune.zero.parameters import full_shape
from dsprune.zero.stages import open_layout

__all__ = ["reshard", "topology_changes"]

_NOT_CLIENT_STATE = ("module", "optimizer", *COUNTERS)
"""Entries of rank 0's file that `DeepSpeedEngine.load_checkpoint` keeps out of the client state."""


def topology_changes(engine: DeepSpeedEngine, folder: Path) -> list[str]:
    """Describe how the engine differs from the one that wrote a checkpoint, for example `ZeRO stage 2 -> 3`.

    Raises:
        UserError: the folder holds no checkpoint, or a damaged one.
    """
    model = read_main_file(folder)
    with explain_damage(folder):
        theirs = _topology(model["ds_config"], model["dp_world_size"])
    ours = _topology(engine.config, engine.dp_world_size)
    return [f"{what} {theirs[what]} -> {ours[what]}" for what in ours if ours[what] != theirs[what]]


def reshard(
    engine: DeepSpeedEngine, folder: Path, *, moments: bool, counters: bool, strict: bool = True
) -> tuple[str, dict[str, Any]]:
    """Load weights, moments and counters. Collective: every rank must call this.

    The loss scale of fp16 restarts at its initial value.

    Args:
        engine: the engine whose state is set.
        folder: folder of a tag.
        moments: whether to load the optimizer's state.
        counters: whether to load the numbers of steps and samples.
        strict: whether to refuse a checkpoint with parameters that the model does not have.

    Returns:
        A file in `folder` and the client state, like `DeepSpeedEngine.load_checkpoint`.

    Raises:
        UserError: the checkpoint is of another model, or the model has frozen parameters.
    """
    files = CheckpointFiles(folder)
    model = read_main_file(folder)
    layout = open_layout(engine, list(_trained(engine, folder)))
    others = set(files.names) - {shard.tensor.name for shard in layout.shards}
    if strict and others:
        raise UserError(
            f"{folder}: it has a parameter {min(others)} and the model has none: load it into the model that it was "
            f"written with, or with load_module_strict=False"
        )
    with explain_damage(folder):
        for index, shard in enumerate(layout.shards):
            _load_shard(layout, index, shard, files, moments=moments)
        layout.refresh_copies()
        assert layout.find_misplaced() is None
        buffers = {plain_name(name): buffer for name, buffer in engine.module.named_buffers()}
        for name in model["buffer_names"]:
            buffers[plain_name(name)].copy_(model["module"][name])
    if counters:
        for name in ("global_steps", "skipped_steps", "global_samples"):
            setattr(engine, name, files.counters[name])
    return str(main_file(folder)), {key: model[key] for key in model if key not in _NOT_CLIENT_STATE}


def _load_shard(
    layout: ZeroLayout, index: int, shard: Shard, files: CheckpointFiles, *, moments: bool
) -> None:
    name, numel = shard.tensor.name, files.numel(shard.tensor.name)
    if numel != shard.tensor.numel:
        raise UserError(
            f"{files.folder}: {name} has {numel:,} weights there and {shard.tensor.numel:,} here: the checkpoint "
            f"is of another model"
        )
    views = files.cut(name, shard.start, shard.numel)
    if shard.numel:
        layout.weight(index).copy_(views.pop("master weights"))
        if moments:
            _load_states(layout, index, views, files.scalars(name))


def _topology(config: dict[str, Any], world_size: int) -> dict[str, Any]:
    """Return the settings that determine the content of DeepSpeed's files."""
    zero = config.get("zero_optimization", {})
    precisions = [name for name in ("bf16", "fp16") if config.get(name, {}).get("enabled")]
    return {
        "ZeRO stage": zero.get("stage", 0),
        "ranks": world_size,
        "precision": precisions[0] if precisions else "fp32",
        "optimizer on": (zero.get("offload_optimizer") or {}).get("device", "accelerator"),
        "sub-groups of": zero.get("sub_group_size", "all"),
    }


def _trained(engine: DeepSpeedEngine, folder: Path) -> Iterator[PrunableTensor]:
    """Yield every parameter, in the order of the model."""
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            raise UserError(
                f"{folder}: {name} is frozen, and frozen parameters cannot be resharded: resume at the same ZeRO "
                f"stage on the same number of ranks"
            )
        yield PrunableTensor(plain_name(name), full_shape(parameter))


def _load_states(
    layout: ZeroLayout, index: int, moments: Mapping[str, Tensor], scalars: Mapping[str, float]
) -> None:
    """Set the optimizer's state of a shard, as if the optimizer had stepped.

    The scalars are the same for all shards in one flat tensor.
    """
    state, weight = layout.make_states(index, moments), layout.weight(index)
    views = layout.states(index)
    for name, values in moments.items():
        views[name].copy_(values)
    for name, value in scalars.items():
        state[name] = _scalar_state(layout.base_optimizer, weight.device, value)


def _scalar_state(optimizer: Optimizer, device: torch.device, value: float) -> float | Tensor:
    """Return a scalar as the optimizer stores it: an int in DeepSpeed's optimizers, a tensor in torch's."""
    if not type(optimizer).__module__.startswith("torch."):
        return int(value)
    on_device = any(optimizer.defaults.get(option) for option in ("fused", "capturable"))
    return torch.tensor(float(value), device=device if on_device else "cpu")
