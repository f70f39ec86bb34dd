"""Who this process is: the rank that a launcher gave it, or the only one."""

import os
import socket
from dataclasses import dataclass

__all__ = ["Ranks", "find_ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run.

    Attributes:
        rank: number of this process, 0 to world_size - 1.
        local_rank: its number on this host.
        world_size: number of processes.
    """

    rank: int
    local_rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0


def find_ranks() -> Ranks:
    """Read the launcher's environment (deepspeed, torchrun), or set up that of a single process.

    Without a launcher the variables that `torch.distributed` reads are set for a group of one.
    """
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
    read = {name: int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return Ranks(read["RANK"], read["LOCAL_RANK"], read["WORLD_SIZE"])
