"""Timers of the benchmarks, and a function to run on several ranks."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["best_of", "milliseconds", "on_ranks", "used_memory"]


def milliseconds(function: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def best_of(repeats: int, function: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of some calls, which other processes disturbed least."""
    return min(milliseconds(function) for _ in range(repeats))


def used_memory(field: str = "VmRSS") -> int:
    """Return the bytes of this process in a field of /proc/self/status: resident ones, mapped files included."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def on_ranks(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the result of `function(*args)` on each rank of a new group, one process and one thread a rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run_rank, (world, Path(folder), function, args), nprocs=world)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world)]


def _run_rank(
    rank: int, world: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # of torch about DeepSpeed, at every step
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed needs it
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=(folder / "store").as_uri(), rank=rank, world_size=world)
    torch.save(function(*args), folder / f"{rank}.pt")
    dist.destroy_process_group()
