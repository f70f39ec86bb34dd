"""The process group of a command, and the device of each rank."""

import os
from datetime import timedelta
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

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
    _unlink_shared_buffer()


def join_ranks(ranks: Ranks, timeout: float = TIMEOUT) -> torch.device:
    """Make the process group, and choose this rank's device. Collective: every rank must call this."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        torch.accelerator.set_device_index(ranks.local_rank)
    init_distributed(timeout)
    return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, ranks.local_rank)


def _unlink_shared_buffer() -> None:
    """Take the name from the memory in which ranks on one CPU host reduce. Collective: every rank must call this.

    DeepSpeed never removes it: 66 MiB a rank would stay in /dev/shm for every run that there was. The ranks have
    mapped it by now, so the kernel frees it with the last of them, however that one ends.
    """
    if torch.accelerator.current_accelerator() is not None:
        return  # no such memory there, and a barrier would need the rank's device
    dist.barrier()
    address, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{dist.get_rank()}"
    Path("/dev/shm", name).unlink(missing_ok=True)
