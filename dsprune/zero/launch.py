"""The start of a command on its ranks: process group, device, and the launcher that started them."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import deepspeed
import psutil
import torch
import torch.distributed as dist
from deepspeed.runtime.zero import partition_parameters

from dsprune.errors import UserError
from dsprune.ranks.group import select_device
from dsprune.ranks.ranks import Ranks, complete_environment
from dsprune.utils.ports import free_port
from dsprune.utils.replacing import replaced
from dsprune.utils.text import first_line
from dsprune.zero.keys import setting
from dsprune.zero.ops import compile_note, prepare_builds

__all__ = [
    "STARTERS",
    "describe_joining",
    "describe_loading",
    "init_distributed",
    "is_alive",
    "join_ranks",
    "launcher_processes",
    "with_environment",
]

STARTERS = (deepspeed, deepspeed.comm, partition_parameters)
"""The modules whose `init_distributed` scripts, frameworks and `deepspeed.zero.Init` call."""

TIMEOUT = 1800.0
"""Seconds that a rank waits for another; torch's own default."""


def init_distributed(timeout: float = TIMEOUT) -> None:
    """Create the default process group, unless it exists. Collective: every rank must call this.

    A rank waits `timeout` seconds for another.

    Raises:
        UserError: the ranks cannot connect to the launcher's address.
    """
    if not dist.is_initialized():
        complete_environment()
    prepare_builds()
    try:
        _create_group(timeout)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistNetworkError) or _is_port_in_use(error)):
            raise
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        raise UserError(
            f"MASTER_ADDR={address}, MASTER_PORT={port}: the ranks cannot meet there ({first_line(error)}): give the "
            f"launcher a free port, such as deepspeed --master_port"
        ) from error


def _create_group(timeout: float) -> None:
    """Create the default process group. Collective: every rank must call this.

    A single rank takes another port if its own is in use, because runs that start together may find the same port.
    """
    create = partial(
        deepspeed.init_distributed, dist_init_required=None, verbose=False, timeout=timedelta(seconds=timeout)
    )
    with _without_shared_memory():
        try:
            create()
        except RuntimeError as error:
            if os.environ["WORLD_SIZE"] != "1" or not _is_port_in_use(error):
                raise
            os.environ["MASTER_PORT"] = str(free_port())
            create()


def _is_port_in_use(error: RuntimeError) -> bool:
    """Return whether a port was in use. torch 2.6 raises a plain `RuntimeError` then, not a `DistNetworkError`."""
    return "EADDRINUSE" in str(error)


def _without_shared_memory() -> AbstractContextManager[None]:
    """Keep DeepSpeed from its own all-reduce of CPU ranks, which only inference with tensor parallelism calls.

    It would compile an extension, and take 66 MiB of /dev/shm per rank; containers have 64 MiB of it by default.
    """
    backend = import_module("deepspeed.comm.torch")  # the attribute of this name is torch itself
    return replaced(backend, "build_shm_op", lambda: None)


def with_environment(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap DeepSpeed's `init_distributed` to start one rank if there is neither a launcher nor mpi4py.

    It also keeps DeepSpeed from compiling collectives that training does not use.
    """

    def completing(*args: Any, **kwargs: Any) -> None:
        if not dist.is_initialized():
            complete_environment()
        with _without_shared_memory():
            init(*args, **kwargs)

    return completing


def describe_joining(ranks: Ranks) -> str:
    """Describe what `join_ranks` waits for."""
    return f"joining {ranks.world_size} ranks" if ranks.world_size > 1 else "starting DeepSpeed"


def describe_loading(path: str, config: dict[str, Any]) -> str:
    """Describe what the start of an engine with a resolved config waits for."""
    offload = setting(config, "zero_optimization.offload_optimizer.device")
    note = compile_note() if offload not in (None, "none") else ""
    return f"loading the model {path}{note}"


def join_ranks(ranks: Ranks, timeout: float = TIMEOUT) -> torch.device:
    """Select this rank's device and create the process group. Collective: every rank must call this."""
    device = select_device(ranks)
    init_distributed(timeout)
    return device


def launcher_processes() -> list[psutil.Process]:
    """Return the processes of the deepspeed launcher that started this process; empty without a launcher."""
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
    """Return whether a process is running and not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
