"""The teacher's answers on their way to disk: computing is one thread, writing another."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from dsprune.distillation.store import ShardWriter, StorePlan
from dsprune.distillation.teacher.forward import Execution, TeacherModel
from dsprune.errors import UserError
from dsprune.ranks.ranks import Ranks

__all__ = ["capture", "shard_batches"]

DEPTH = 4
"""Batches that may wait to be written: the teacher's outputs of so many are in memory."""


def shard_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Records of a shard by forward pass, those of like length together, the longest first.

    They depend on the shard alone: whoever computes it, however often, gets the same bytes.
    """
    by_length = np.argsort(-lengths, kind="stable")
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def capture(
    folder: Path,
    plan: StorePlan,
    missing: Sequence[int],
    asking: TeacherModel,
    lengths: np.ndarray,
    execution: Execution,
    ranks: Ranks,
    progress: Progress,
) -> None:
    """Write this rank's share of the missing shards.

    Collective when the teacher is sharded: then all ranks make as many forward passes, even one that has
    failed.

    Args:
        folder: of the store.
        plan: of the store.
        missing: shards to be written, by all ranks.
        asking: the teacher.
        lengths: tokens of each example.
        execution: how the teacher is run.
        ranks: who this is.
        progress: gets a bar of this rank's records.

    Raises:
        UserError: what the teacher says cannot be stored, or the disk takes no more.
    """
    batch_size, sharded = execution.batch_size, execution.sharded
    hidden = plan.spec.kind == "hidden"
    own = missing[ranks.rank :: ranks.world_size]
    bar = progress.add_task("teacher", total=sum(_num_records(plan, number) for number in own))
    with _Background() as background:
        for number in own:
            writer = ShardWriter(plan, number)
            for records in shard_batches(lengths[writer.samples], batch_size):
                rows = asking.rows(writer.samples[records], hidden=hidden)
                background.do(writer.put, records.tolist(), rows)
                if background.failed and not sharded:
                    return
                progress.advance(bar, len(records))
            background.do(_save, writer, folder)
        if sharded:
            passes = [
                _num_passes(plan, missing[rank :: ranks.world_size], batch_size)
                for rank in range(ranks.world_size)
            ]
            for _ in range(max(passes) - passes[ranks.rank]):
                asking.rows(plan.samples[:1], hidden=hidden)


def _num_passes(plan: StorePlan, shards: Sequence[int], batch_size: int) -> int:
    return sum(-(-_num_records(plan, shard) // batch_size) for shard in shards)


def _num_records(plan: StorePlan, shard: int) -> int:
    records = plan.records(shard)
    return records.stop - records.start


def _save(writer: ShardWriter, folder: Path) -> None:
    try:
        writer.save(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}): mend that and start again") from error


class _Background:
    """One thread that does what it is given, one after the other; leaving waits for it.

    The first error is raised on leaving, and what comes after it is not done.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._error: UserError | None = None

    def __enter__(self) -> "_Background":
        return self

    @property
    def failed(self) -> bool:
        """Whether something has gone wrong."""
        return self._error is not None

    def do(self, work: Callable[..., None], *args: Any) -> None:
        """Do this next; waits while much is waiting."""
        while len(self._pending) >= DEPTH:
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(self._unless_failed, work, *args))

    def _unless_failed(self, work: Callable[..., None], *args: Any) -> None:
        if self._error is None:
            try:
                work(*args)
            except UserError as error:
                self._error = error

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        for future in self._pending:
            future.result()
        if self._error is not None:
            raise self._error
