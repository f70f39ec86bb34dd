"""The process group of a command, and the device of each rank."""

import os
from datetime import timedelta
from pathlib import Path

import deepspeed
import psutil
import torch
import torch.distributed as dist

from dsprune.ranks.ranks import Ranks, select_device
from dsprune.zero.ops import load_collectives

__all__ = ["init_distributed", "is_alive", "join_ranks", "launcher_processes"]

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
    device = select_device(ranks)
    init_distributed(timeout)
    return device


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


def launcher_processes() -> list[psutil.Process]:
    """Return the processes of the deepspeed launcher that started this one; none without a launcher."""
    found = []
    for process in psutil.Process().parents():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(Path(word).name == "deepspeed" or "deepspeed.launcher" in word for word in command[:5]):
            found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs, and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
