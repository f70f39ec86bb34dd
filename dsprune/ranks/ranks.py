"""This process among all processes of a run: its rank, its device and its process group."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dsprune.ranks.environment import complete_environment, completed

__all__ = ["Ranks", "current_ranks", "expected_ranks", "find_ranks", "process_group", "select_device"]


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run.

    Attributes:
        rank: number of this process, 0 to world_size - 1.
        local_rank: number of this process on its host.
        world_size: number of processes.
    """

    rank: int
    local_rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the files and prints the messages."""
        return self.rank == 0


def find_ranks() -> Ranks:
    """Return the ranks from the environment of the launcher (deepspeed, torchrun), or a single rank without one.

    Raises:
        UserError: the environment contradicts itself.
    """
    complete_environment()
    return expected_ranks()


def expected_ranks() -> Ranks:
    """Return what `find_ranks` does, and leave the environment as it is for a framework that reads it, too."""
    environment = completed(os.environ)
    return Ranks(*(int(environment[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def current_ranks() -> Ranks:
    """Return this process in the default process group, which must exist."""
    return Ranks(dist.get_rank(), int(os.environ.get("LOCAL_RANK", "0")), dist.get_world_size())


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
