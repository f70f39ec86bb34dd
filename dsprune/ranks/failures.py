"""Ranks that fail: a lost rank is named in one line, and a rank without progress ends."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import torch.distributed as dist

from dsprune.errors import RunFailedError
from dsprune.ranks.ranks import Ranks

__all__ = ["Watchdog", "explain_lost_ranks"]

SIGNS = ("closed by peer", "reset by peer", "Timed out waiting", "Connection refused", "Broken pipe")
"""What gloo's messages have in common when a rank does not answer."""


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Collectives that fail inside because another rank is gone.

    Raises:
        RunFailedError: in place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, dist.DistError) and not any(sign in message for sign in SIGNS):
            raise
        reason = message.strip().splitlines()[0]
        raise RunFailedError(
            f"another rank is gone ({reason}): the same command goes on from the newest checkpoint"
        ) from error


T = TypeVar("T")


class Watchdog:
    """A thread that ends this process when `beat` was not called for some time.

    A rank that waits for a dead one does not come back from the wait, and cannot end itself otherwise.

    Args:
        ranks: this process among all.
        timeout: seconds.
    """

    def __init__(self, ranks: Ranks, timeout: float) -> None:
        self._rank, self._timeout = ranks.rank, timeout
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.beat("the start")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def beat(self, what: str) -> None:
        """There is progress; `what` begins."""
        self._last = (time.monotonic(), what)

    def beating(self, work: Callable[..., T], what: str) -> Callable[..., T]:
        """`work`, each call of which is a beat."""

        def beating(*args: Any, **kwargs: Any) -> T:
            self.beat(what)
            return work(*args, **kwargs)

        return beating

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout / 4)):
            since, what = self._last
            if time.monotonic() - since > self._timeout:
                print(
                    f"dsprune: rank {self._rank}: no progress for {self._timeout:g} seconds (timeout of the recipe) "
                    f"since {what}: another rank, a host or a file system is gone; the same command goes on from "
                    f"the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
