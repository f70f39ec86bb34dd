"""The process group of a command that needs no engine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from dsprune.distributed.ranks import Ranks

__all__ = ["together"]


@contextmanager
def together(ranks: Ranks) -> Iterator[torch.device]:
    """The default process group while the block runs, none for a single rank; gives this rank's device.

    Collective: every rank must call this.
    """
    accelerator = torch.accelerator.current_accelerator()
    device = torch.device("cpu") if accelerator is None else torch.device(accelerator.type, ranks.local_rank)
    if accelerator is not None:
        torch.accelerator.set_device_index(ranks.local_rank)
    if ranks.world_size > 1:
        dist.init_process_group(dist.get_default_backend_for_device(device))
    try:
        yield device
    finally:
        if ranks.world_size > 1:
            dist.destroy_process_group()
