"""The device and the process group of this process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from dsprune.ranks.ranks import Ranks, expected_ranks

__all__ = ["announce", "current_ranks", "leave_ranks", "process_group", "select_device"]


def current_ranks() -> Ranks:
    """Return this process among the ranks of the default process group; one rank alone if there is no group."""
    if not dist.is_initialized():
        return Ranks(0, 0, 1)
    return Ranks(dist.get_rank(), int(os.environ.get("LOCAL_RANK", "0")), dist.get_world_size())


def leave_ranks() -> None:
    """Destroy the default process group, if there is one, when no rank waits for this one.

    Otherwise a thread of gloo may still hold a tensor when the interpreter ends, which aborts the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def announce(text: str) -> None:
    """Print a line about the run on the first rank, also once a script has destroyed the process group."""
    if (current_ranks() if dist.is_initialized() else expected_ranks()).is_first:
        print(f"dsprune: {text}", file=sys.stderr, flush=True)


def select_device(ranks: Ranks) -> torch.device:
    """Return this rank's device, its accelerator or the CPU, and make it the current device."""
    # Without a GPU, a CUDA build of torch has a current accelerator that is not available.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    torch.accelerator.set_device_index(ranks.local_rank)
    return torch.device(accelerator.type, ranks.local_rank)


@contextmanager
def process_group(ranks: Ranks) -> Iterator[torch.device]:
    """Open the default process group for the block, if there are several ranks; yield this rank's device.

    Collective: every rank must call this.
    """
    device = select_device(ranks)
    if ranks.world_size > 1:
        dist.init_process_group(dist.get_default_backend_for_device(device))
    try:
        yield device
    finally:
        if ranks.world_size > 1:
            dist.destroy_process_group()
