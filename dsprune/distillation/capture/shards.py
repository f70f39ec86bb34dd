"""Writing the shards of a capture: one thread runs the teacher, another writes its outputs."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from dsprune.distillation.capture.forward import Execution, TeacherModel
from dsprune.distillation.store import ShardWriter, StorePlan
from dsprune.errors import UserError
from dsprune.ranks.group import current_ranks

__all__ = ["shard_batches", "write_shards"]

MAX_PENDING = 4
"""Number of batches that may wait to be written; all their outputs are in memory."""


def write_shards(
    folder: Path,
    plan: StorePlan,
    missing: Sequence[int],
    teacher: TeacherModel,
    lengths: np.ndarray,
    execution: Execution,
    progress: Progress,
) -> None:
    """Run the teacher for this rank's share of the missing shards, and write them.

    Collective when the teacher is sharded: all ranks then make the same number of forward passes, even a rank that
    has failed.

    Raises:
        UserError: the teacher's outputs cannot be stored, or a file cannot be written.
    """
    ranks, batch_size, sharded = current_ranks(), execution.batch_size, execution.sharded
    hidden = plan.spec.kind == "hidden"
    own = missing[ranks.rank :: ranks.world_size]
    bar = progress.add_task("teacher", total=sum(_num_records(plan, number) for number in own))
    with _Background() as background:
        for number in own:
            writer = ShardWriter(plan, number)
            for records in shard_batches(lengths[writer.samples], batch_size):
                rows = teacher.rows(writer.samples[records], hidden=hidden)
                background.submit(writer.put, records.tolist(), rows)
                if background.failed and not sharded:
                    return
                progress.advance(bar, len(records))
            background.submit(_save, writer, folder)
        if sharded:
            passes = [
                _num_passes(plan, missing[rank :: ranks.world_size], batch_size)
                for rank in range(ranks.world_size)
            ]
            for _ in range(max(passes) - passes[ranks.rank]):
                teacher.rows(plan.samples[:1], hidden=hidden)


def shard_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return the records of each forward pass of a shard: records of similar length together, the longest first.

    The batches depend only on the shard, so that any rank computes the same bytes at any time.

    Args:
        lengths: `[records]`, number of tokens of each record of the shard.
        batch_size: records of a forward pass.
    """
    by_length = np.argsort(-lengths, kind="stable")
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def _num_passes(plan: StorePlan, shards: Sequence[int], batch_size: int) -> int:
    return sum(-(-_num_records(plan, shard) // batch_size) for shard in shards)


def _num_records(plan: StorePlan, shard: int) -> int:
    records = plan.records(shard)
    return int(records.stop - records.start)


def _save(writer: ShardWriter, folder: Path) -> None:
    try:
        writer.save(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}): fix that and start again") from error


class _Background:
    """Runs jobs in another thread, in order; leaving the context waits for them.

    After the first UserError no more jobs are run, and the error is raised on leaving.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._error: UserError | None = None

    def __enter__(self) -> "_Background":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        for future in self._pending:
            future.result()
        if self._error is not None:
            raise self._error

    @property
    def failed(self) -> bool:
        """Whether a job has raised an error."""
        return self._error is not None

    def submit(self, work: Callable[..., None], *args: Any) -> None:
        """Run `work(*args)` after the jobs before it; wait first while `MAX_PENDING` jobs are unfinished."""
        while len(self._pending) >= MAX_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(self._run, work, *args))

    def _run(self, work: Callable[..., None], *args: Any) -> None:
        if self._error is None:
            try:
                work(*args)
            except UserError as error:
                self._error = error
