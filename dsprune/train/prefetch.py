"""Make batches ahead of time in another thread, while the accelerator computes."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")


def prefetched(batches: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """Yield the batches of an endless iterator in order; an error is raised in place of its batch.

    Another thread reads and collates up to `ahead` batches in advance.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        made = deque(thread.submit(next, batches) for _ in range(ahead))
        while True:
            made.append(thread.submit(next, batches))
            yield made.popleft().result()
