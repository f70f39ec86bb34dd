"""The process group of a command, and the device of each rank."""

import deepspeed
import torch

from dsprune.distributed.ranks import Ranks
from dsprune.engine.ops import load_collectives

__all__ = ["init_distributed", "join_ranks"]


def init_distributed() -> None:
    """Make the default process group, unless there is one. Collective: every rank must call this.

    Raises:
        UserError: a lock that was left behind would make DeepSpeed wait for ever.
    """
    load_collectives()
    deepspeed.init_distributed(dist_init_required=None, verbose=False)


def join_ranks(ranks: Ranks) -> torch.device:
    """Make the process group, and choose this rank's device. Collective: every rank must call this."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        torch.accelerator.set_device_index(ranks.local_rank)
    init_distributed()
    return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, ranks.local_rank)
