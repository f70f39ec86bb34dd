"""A Slurm for all tests of this folder; where there can be none, they say why."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.slurm import Slurm, obstacle, start_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running Slurm of two nodes. Continuous integration must be able to have it."""
    reason = obstacle()
    if reason is not None:
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    with start_slurm() as running:
        yield running
