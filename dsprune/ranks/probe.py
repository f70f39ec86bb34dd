"""Check that this machine can start ranks that communicate."""

import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

from dsprune.errors import CheckFailedError

__all__ = ["probe_ranks"]


def probe_ranks(world_size: int, timeout: float) -> None:
    """Start `world_size` gloo ranks on this machine and let them all-reduce a number.

    Raises:
        CheckFailedError: a rank died, or they did not finish within `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store").as_uri()
        ranks = mp.spawn(_all_reduce, (world_size, store, timeout), nprocs=world_size, join=False)
        try:
            finished = _join(ranks, timeout)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckFailedError(f"{world_size} gloo ranks: one died ({reason})") from error
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()
    if not finished:
        raise CheckFailedError(f"{world_size} gloo ranks: no answer within {timeout:g} s")


def _join(ranks: mp.ProcessContext, timeout: float) -> bool:
    """Wait for every rank to end; `ProcessContext.join` returns as soon as one has ended."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if ranks.join(timeout=left):
            return True
    return False


def _all_reduce(rank: int, world_size: int, store: str, timeout: float) -> None:
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
    )
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    assert total.item() == world_size * (world_size + 1) // 2, total
    dist.destroy_process_group()
