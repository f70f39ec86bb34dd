"""Make the steps of DeepSpeed's Adam on a CPU the same in a resumed run.

Read from deepspeed 0.19.8, `csrc/includes/cpu_adam.h`: for the bias corrections it multiplies powers of the betas from
step to step, but calls `pow` after a gap, such as at the first step of a resumed run. The two are rounded differently.
"""

from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from torch.optim import Optimizer

__all__ = ["compute_powers_anew"]

NO_STEP = 0
"""A number of steps that none follows but the first, whose powers are the betas."""


def compute_powers_anew(optimizer: Optimizer) -> None:
    """Make DeepSpeed's Adam compute the powers of the betas with `pow` at each step; leave other optimizers alone."""
    if isinstance(optimizer, DeepSpeedCPUAdam):
        optimizer.register_step_pre_hook(_leave_a_gap_offloaded)
    elif isinstance(optimizer, FusedAdam) and get_accelerator().device_name() == "cpu":
        optimizer.register_step_pre_hook(_leave_a_gap)


def _leave_a_gap_offloaded(optimizer: Any, *_: Any) -> None:
    group = optimizer.param_groups[0]
    numbers = group["lr"], *group["betas"], group["eps"], group["weight_decay"], group["bias_correction"]
    nothing = [torch.empty(0) for _ in range(4)]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, NO_STEP, *numbers, *nothing)


def _leave_a_gap(optimizer: Any, *_: Any) -> None:
    group = optimizer.param_groups[0]
    numbers = group["lr"], *group["betas"], group["eps"], NO_STEP, optimizer.adam_w_mode
    nothing = [[torch.empty(0)] for _ in range(4)]
    optimizer.multi_tensor_adam(
        0,
        optimizer._dummy_overflow_buf,
        nothing,
        *numbers,
        int(group["bias_correction"]),
        group["weight_decay"],
    )
