"""The process group of a command, and the device of each rank."""

from datetime import timedelta

import deepspeed
import torch

from dsprune.distributed.ranks import Ranks
from dsprune.engine.ops import load_collectives

__all__ = ["init_distributed", "join_ranks"]

TIMEOUT = 1800.0
"""Seconds, torch's own default."""


def init_distributed(timeout: float = TIMEOUT) -> None:
    """Make the default process group, unless there is one. Collective: every rank must call this.

    Args:
        timeout: seconds that a rank waits for another.

    Raises:
        UserError: a lock that was left behind would make DeepSpeed wait for ever.
    """
    load_collectives()
    deepspeed.init_distributed(dist_init_required=None, verbose=False, timeout=timedelta(seconds=timeout))


def join_ranks(ranks: Ranks, timeout: float = TIMEOUT) -> torch.device:
    """Make the process group, and choose this rank's device. Collective: every rank must call this."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        torch.accelerator.set_device_index(ranks.local_rank)
    init_distributed(timeout)
    return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, ranks.local_rank)
