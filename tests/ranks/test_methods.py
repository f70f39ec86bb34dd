"""Every pruning method has the same mask on any number of ranks."""

from collections.abc import Iterator

import pytest

from dsprune.registry import METHODS
from dsprune.testing.methods import check_method
from dsprune.testing.pool import RankPool


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as ranks:
        yield ranks


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_selects_the_same_weights_on_any_number_of_ranks(pool: RankPool, name: str) -> None:
    check_method(METHODS.get(name)(), pool)
