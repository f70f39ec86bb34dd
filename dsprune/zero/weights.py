"""Whole weights out of a sharded model, and models sharded for inference."""

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from dsprune.zero.launch import init_distributed
from dsprune.zero.parameters import is_partitioned

__all__ = ["full_state_dict", "read_whole", "shard_for_inference"]


def shard_for_inference(model: nn.Module, dtype: torch.dtype) -> DeepSpeedEngine:
    """The model with each rank keeping its share of every weight. Collective: every rank must call this.

    From here on every forward pass is collective, too. Each host still holds the model in its main memory,
    once a rank, while it is loaded.
    """
    init_distributed()
    config = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed asks; without training it says nothing
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


def read_whole(parameter: Tensor) -> Tensor:
    """A copy of a parameter on the CPU. Collective for one that is sharded: every rank must call this."""
    with deepspeed.zero.GatheredParameters([parameter], enabled=is_partitioned(parameter)):
        return parameter.detach().to("cpu", copy=True)


def full_state_dict(engine: DeepSpeedEngine) -> dict[str, Tensor] | None:
    """The working weights, gathered, on the CPU of rank 0; None on other ranks.

    Every zero is +0.0. Collective: every rank must call this.
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


def _without_negative_zeros(value: Tensor) -> Tensor:
    copy = value.to("cpu", copy=True)
    return copy.add_(0.0) if copy.is_floating_point() else copy
