"""A Slurm for all tests of this folder; where there can be none, they say why."""

from collections.abc import Iterator

import pytest

from tests.cluster.slurm import Slurm, obstacle, start_slurm
from tests.debian import need


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running Slurm of two nodes. Continuous integration must be able to have it."""
    need(obstacle())
    with start_slurm() as running:
        yield running
