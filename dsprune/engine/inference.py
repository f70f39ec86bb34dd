"""Forward passes of a model that is larger than a device: its weights sharded by ZeRO-3, no optimizer."""

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from dsprune.engine.launch import init_distributed

__all__ = ["read_whole", "shard_for_inference"]


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
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().to("cpu", copy=True)
