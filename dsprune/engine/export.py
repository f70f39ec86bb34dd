"""The whole model out of a sharded engine, as Hugging Face writes it."""

from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor

from dsprune.pure.files import replace_folder

__all__ = ["full_state_dict", "save_model_folder"]


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
        sharded = stage3 and hasattr(value, "ds_id")
        with deepspeed.zero.GatheredParameters([value] if sharded else [], enabled=sharded):
            if first:
                if id(value) not in tied:
                    tied[id(value)] = _without_negative_zeros(value.detach())
                state[name] = tied[id(value)]
    return state if first else None


def _without_negative_zeros(value: Tensor) -> Tensor:
    copy = value.to("cpu", copy=True)
    return copy.add_(0.0) if copy.is_floating_point() else copy


def save_model_folder(engine: DeepSpeedEngine, folder: Path, tokenizer: Any) -> None:
    """Write `folder` for `from_pretrained`: whole or not at all. Collective: every rank must call this.

    Args:
        engine: its module is a Hugging Face model.
        folder: replaced when it is there.
        tokenizer: saved beside the model.
    """
    state = full_state_dict(engine)
    if state is not None:

        def write(temporary: Path) -> None:
            engine.module.save_pretrained(temporary, state_dict=state)
            tokenizer.save_pretrained(temporary)

        replace_folder(folder, write)
    dist.barrier()
