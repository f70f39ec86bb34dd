"""Failures of ranks: report a lost rank in one line, and end a rank that makes no progress."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessException, spawn

from dsprune.errors import CheckFailedError, RunFailedError
from dsprune.ranks.ranks import Ranks
from dsprune.utils.text import first_line

__all__ = ["Watchdog", "explain_lost_ranks", "probe_ranks"]

T = TypeVar("T")
LAST_WORDS = 5.0
"""Seconds for the report of a process that is about to end."""

SIGNS = ("closed by peer", "reset by peer", "Timed out waiting", "Connection refused", "Broken pipe")
"""Parts of gloo's messages if a rank does not answer."""


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Replace the backend's error with one line, if a collective in the block fails because a rank is lost.

    Raises:
        RunFailedError: another rank is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error) for sign in SIGNS):
            raise
        raise RunFailedError(
            f"another rank is gone ({first_line(error)}): run the same command to resume from the newest checkpoint"
        ) from error


class Watchdog:
    """A thread that ends this process if `beat` is not called for some time.

    A rank that waits for a lost rank cannot return from the wait, or end in another way.

    Args:
        ranks: rank and number of ranks of this process.
        timeout: seconds without a call of `beat`.
        report: called with the reason just before the end; may take `LAST_WORDS` seconds.
    """

    def __init__(self, ranks: Ranks, timeout: float, report: Callable[[str], object] = str) -> None:
        self._rank, self._timeout, self._report = ranks.rank, timeout, report
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.beat("the start")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self, what: str) -> None:
        """Record progress: `what` begins."""
        self._last = (time.monotonic(), what)

    def beating(self, work: Callable[..., T], what: str) -> Callable[..., T]:
        """Return `work`, wrapped so that each call is a beat."""

        def beating(*args: Any, **kwargs: Any) -> T:
            self.beat(what)
            return work(*args, **kwargs)

        return beating

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout / 4)):
            since, what = self._last
            if time.monotonic() - since > self._timeout:
                reason = f"no progress for {self._timeout:g} seconds (timeout of the recipe) since {what}"
                print(
                    f"dsprune: rank {self._rank}: {reason}: another rank, a host or a file system is gone; run the "
                    f"same command to resume from the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                # In a thread, because the file system may not respond.
                last_words = threading.Thread(target=self._report, args=(reason,), daemon=True)
                last_words.start()
                last_words.join(LAST_WORDS)
                os._exit(1)


def probe_ranks(world_size: int, timeout: float) -> None:
    """Start `world_size` gloo ranks on this machine, which all-reduce a number.

    Raises:
        CheckFailedError: a rank died, or the ranks did not finish within `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store").as_uri()
        ranks = spawn(_all_reduce, (world_size, store, timeout), nprocs=world_size, join=False)
        try:
            finished = _join(ranks, timeout)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckFailedError(f"{world_size} gloo ranks: one died ({reason})") from error
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()
    if not finished:
        raise CheckFailedError(f"{world_size} gloo ranks: no answer within {timeout:g} s")


def _join(ranks: ProcessContext, timeout: float) -> bool:
    """Wait for every rank to end; `ProcessContext.join` returns as soon as one has ended."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if ranks.join(timeout=left):
            return True
    return False


def _all_reduce(rank: int, world_size: int, store: str, timeout: float) -> None:
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
    )
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    assert total.item() == world_size * (world_size + 1) // 2, total
    dist.destroy_process_group()
