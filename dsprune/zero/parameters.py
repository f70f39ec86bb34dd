"""Parameters under ZeRO stage 3, which partitions each over the ranks and leaves an empty tensor in its place."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.utils import set_z3_leaf_module
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dsprune.errors import UserError
from dsprune.zero.launch import init_distributed
from dsprune.zero.layout import full_numel

__all__ = [
    "check_parameters",
    "check_precision",
    "full_shape",
    "full_state_dict",
    "full_tensor",
    "gather_whole",
    "is_mixed",
    "is_partitioned",
    "shard_for_inference",
]


def full_shape(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of the complete parameter."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def is_partitioned(parameter: Any) -> bool:
    """Return whether the parameter is partitioned over the ranks; reading it is then collective."""
    return hasattr(parameter, "ds_id")


def check_parameters(model: nn.Module) -> None:
    """Check that DeepSpeed can broadcast the parameters of a module, as bytes.

    Raises:
        UserError: one has no shape or no values yet, is a scalar, empty, complex or not contiguous, or shares memory
            with another one.
    """
    places = []
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UserError(
                f"model: {name} has no shape yet, since its module is lazy: run a forward pass of the model first"
            )
        if parameter.is_meta:
            raise UserError(
                f"model: {name} is on the device meta, without values: load the model's weights first"
            )
        if not parameter.dim():
            raise UserError(
                f"model: {name} is of shape [], which DeepSpeed cannot broadcast: give it the shape [1]"
            )
        if not full_numel(parameter):
            raise UserError(
                f"model: {name} is of shape {list(full_shape(parameter))}, without weights, with which DeepSpeed does "
                f"not train at ZeRO stage 3: leave it out, or make it a buffer"
            )
        if parameter.requires_grad and parameter.is_complex():
            raise UserError(
                f"model: {name} is {parameter.dtype}, which DeepSpeed does not train: keep torch.view_as_real of it, "
                f"and call torch.view_as_complex in forward"
            )
        if is_partitioned(parameter):
            continue
        if not parameter.is_contiguous():
            raise UserError(
                f"model: {name} is not contiguous, so DeepSpeed cannot broadcast it: set its `data` to "
                f"`data.contiguous()`"
            )
        places.append((parameter.data_ptr(), parameter.nbytes, name))
    _check_apart(places)


def _check_apart(places: Iterable[tuple[int, int, str]]) -> None:
    """Check that no two parameters, each with its address and bytes, share memory: ZeRO separates them, stage 0 not."""
    for (start, size, name), (other_start, _, other) in pairwise(sorted(places)):
        if other_start < start + size:
            raise UserError(
                f"model: {name} and {other} share memory but are two parameters, which ZeRO stages 1 to 3 would train "
                f"apart: use one nn.Parameter for both to tie them, or clone() the data of one"
            )


def check_precision(model: nn.Module, *, mixed: bool) -> None:
    """Check that an engine without mixed precision trains fp32 parameters: DeepSpeed does not convert others.

    Raises:
        UserError: it trains others, for example if transformers has loaded a model in the precision of its files.
    """
    if mixed:
        return  # DeepSpeed casts them
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    if others := {name: dtype for name, dtype in trained.items() if dtype != torch.float32}:
        name, dtype = next(iter(others.items()))
        raise UserError(
            f"precision: fp32 in the engine, and {len(others)} of {len(trained)} parameters are not, such as {name}, "
            f"{dtype}: call model.float() before deepspeed.initialize, or set bf16.enabled in the ds_config"
        )


def is_mixed(engine: DeepSpeedEngine) -> bool:
    """Return whether an engine trains in bf16 or fp16, with fp32 master weights."""
    return bool(engine.bfloat16_enabled() or engine.fp16_enabled())


def gather_whole(model: nn.Module) -> None:
    """Make ZeRO-3 gather a whole module if ranks may call its parts a different number of times: `calls_vary`.

    Call it before `deepspeed.initialize`.
    """
    for module in model.modules():
        if getattr(module, "calls_vary", False):
            set_z3_leaf_module(module, True)


def full_state_dict(engine: DeepSpeedEngine) -> dict[str, Tensor] | None:
    """Gather the working weights on the CPU of rank 0. Collective: every rank must call this.

    Returns:
        The weights by name, with +0.0 for every zero; None on other ranks.
    """
    first = dist.get_rank() == 0
    state: dict[str, Tensor] = {}
    stage3 = engine.zero_optimization_partition_weights()
    tied: dict[int, Tensor] = {}
    for name, value in engine.module.state_dict(keep_vars=True).items():
        # One parameter at a time: a model that needs stage 3 does not fit on one device.
        sharded = stage3 and is_partitioned(value)
        with deepspeed.zero.GatheredParameters([value] if sharded else [], enabled=sharded):
            if first:
                if id(value) not in tied:
                    tied[id(value)] = _without_negative_zeros(value.detach())
                state[name] = tied[id(value)]
    return state if first else None


def full_tensor(parameter: Tensor) -> Tensor:
    """Return a copy of the complete parameter on the CPU.

    Collective for a partitioned parameter: every rank must call this.
    """
    with deepspeed.zero.GatheredParameters([parameter], enabled=is_partitioned(parameter)):
        return parameter.detach().to("cpu", copy=True)


def shard_for_inference(model: nn.Module, dtype: torch.dtype) -> DeepSpeedEngine:
    """Shard a model over the ranks by ZeRO stage 3. Collective: every rank must call this.

    Every forward pass of the returned engine is collective, too. While the model is loaded, each rank holds one copy
    of it in main memory.
    """
    init_distributed()
    config = {
        "train_micro_batch_size_per_gpu": 1,  # required by DeepSpeed, without effect on inference
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    gather_whole(model)
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


def _without_negative_zeros(value: Tensor) -> Tensor:
    copy = value.to("cpu", copy=True)
    return copy.add_(0.0) if copy.is_floating_point() else copy
