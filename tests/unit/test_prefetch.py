"""Batches from another thread are the same, in the same order, and so are its errors."""

import threading
from collections.abc import Iterator
from itertools import count, islice

import pytest

from dsprune.errors import UserError
from dsprune.train.prefetch import prefetched


def test_the_order_is_kept_and_few_batches_are_made_ahead() -> None:
    made: list[str] = []

    def batches() -> Iterator[int]:
        for number in count():
            made.append(threading.current_thread().name)
            yield number

    found = prefetched(batches(), ahead=2)
    assert list(islice(found, 50)) == list(range(50))
    found.close()
    assert len(made) <= 53
    assert all(name.startswith("batches") for name in made)
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    def batches() -> Iterator[int]:
        yield from range(3)
        raise UserError("shard-00001.safetensors: damaged")

    found = prefetched(batches())
    assert list(islice(found, 3)) == [0, 1, 2]
    with pytest.raises(UserError, match=r"shard-00001.safetensors: damaged"):
        next(found)
