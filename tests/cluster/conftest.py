"""A Slurm for all tests of this folder; where there can be none, they are skipped with the reason."""

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.slurm import PROGRAMS, Slurm, obstacle, start_slurm


@pytest.fixture(scope="session")
def slurm(need: Callable[..., None]) -> Iterator[Slurm]:
    """A running Slurm of two nodes."""
    need(PROGRAMS, obstacle())
    with start_slurm() as running:
        yield running
