"""A Slurm for all tests of this folder; if none can run here, they are skipped with the reason."""

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.site import Site, make_site
from tests.cluster.slurm import PROGRAMS, Slurm, obstacle, start_slurm


@pytest.fixture(scope="session")
def slurm(need: Callable[..., None]) -> Iterator[Slurm]:
    """A running Slurm of two nodes."""
    need(PROGRAMS, obstacle())
    with start_slurm() as running:
        yield running


@pytest.fixture(scope="module")
def site(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A folder to submit from, the scripts, and the Slurm."""
    return make_site(tmp_path_factory.mktemp("site"), slurm)
