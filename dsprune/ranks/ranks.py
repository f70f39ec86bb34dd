"""The rank of this process among all, from the environment.

Environment variables of `torch.distributed` that the launcher, if there is one, has not set are completed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dsprune.errors import UserError
from dsprune.utils.ports import free_port

__all__ = [
    "Ranks",
    "complete_environment",
    "completed",
    "expected_ranks",
    "find_ranks",
    "is_first_of_all",
    "is_first_on_host",
]

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")

OF_LAUNCHERS = {
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpiexec": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
}
"""Names of rank, local rank and number of ranks in other launchers."""

PORT = 29500


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the number of ranks.

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
    """Return the result of `find_ranks` without changing the environment, which a framework may read too."""
    environment = completed(os.environ)
    return Ranks(*(int(environment[name]) for name in VARIABLES))


def is_first_on_host() -> bool:
    """Return whether this process prints the messages of its host; each does if the environment contradicts itself."""
    return _numbers_or_alone()[1] == 0


def is_first_of_all() -> bool:
    """Return whether this is rank 0; each process is if the environment contradicts itself."""
    return _numbers_or_alone()[0] == 0


def _numbers_or_alone() -> tuple[int, int, int]:
    try:
        return _numbers(_set(os.environ))
    except UserError:
        return 0, 0, 1


def complete_environment() -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT if they are missing or empty.

    Raises:
        UserError: the variables contradict each other, or the address of the first rank is unknown.
    """
    os.environ.update(completed(os.environ))


def completed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the five variables.

    `deepspeed`, `torchrun` and `accelerate launch` set all of them. `mpirun` and `srun` have other names.
    Without a launcher there is one rank. A RANK or LOCAL_RANK alone, left by an earlier launcher, is ignored.

    Raises:
        UserError: see `complete_environment`.
    """
    environment = _set(environment)
    rank, local_rank, world_size = _numbers(environment)
    found = dict(zip(VARIABLES, map(str, (rank, local_rank, world_size)), strict=True))
    return found | _rendezvous(environment, world_size)


def _set(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are not empty."""
    return {name: value for name, value in environment.items() if value}


def _numbers(environment: Mapping[str, str]) -> tuple[int, int, int]:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        values = environment["RANK"], environment.get("LOCAL_RANK", "0"), environment["WORLD_SIZE"]
        return _whole(VARIABLES, values)
    for names in OF_LAUNCHERS.values():
        if all(name in environment for name in (names[0], names[2])):
            return _whole(names, tuple(environment.get(name, "0") for name in names))
    if environment.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"WORLD_SIZE={environment['WORLD_SIZE']}: RANK is not set, so every process would train alone: unset it, "
            f"or start with a launcher"
        )
    return 0, 0, 1  # a single RANK or LOCAL_RANK is a leftover


def _whole(names: tuple[str, ...], values: tuple[str, ...]) -> tuple[int, int, int]:
    for name, value in zip(names, values, strict=True):
        if not value.isdecimal():
            raise UserError(f"{name}={value}: is not a whole number: unset it, or start with a launcher")
    rank, local_rank, world_size = map(int, values)
    if rank >= world_size or local_rank >= world_size:
        raise UserError(
            f"RANK={rank}, LOCAL_RANK={local_rank}, WORLD_SIZE={world_size}: do not go together: unset them, or start "
            f"with a launcher"
        )
    return rank, local_rank, world_size


def _rendezvous(environment: Mapping[str, str], world_size: int) -> dict[str, str]:
    """Return the address of the first rank: the one given, this host, or the node that started the Slurm step."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if port and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"MASTER_PORT={port}: is not a port, 1 to 65535: unset it, or start with a launcher")
    if world_size == 1:
        return {"MASTER_ADDR": address or "127.0.0.1", "MASTER_PORT": port or str(free_port())}
    local_size = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("MPI_LOCALNRANKS")
    if address is None and local_size == str(world_size):
        address = "127.0.0.1"
    if address is None:
        address = environment.get("SLURM_LAUNCH_NODE_IPADDR")
    if address is None:
        raise UserError(
            f"MASTER_ADDR: missing for {world_size} ranks: start with deepspeed, torchrun, accelerate launch or srun, "
            f"or export MASTER_ADDR=HOST of rank 0"
        )
    return {"MASTER_ADDR": address, "MASTER_PORT": port or str(PORT)}
