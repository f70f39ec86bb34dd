"""Ranks for the engine tests: DeepSpeed uses the default group, so each number of ranks has its own processes."""

from collections.abc import Iterator

import pytest

from dsprune.testing.pool import RankPool


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda size: f"world{size}")
def ranks(request: pytest.FixtureRequest) -> Iterator[RankPool]:
    with RankPool(request.param) as pool:
        yield pool
