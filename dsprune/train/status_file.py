"""`status.json` in a run's folder: the state and the progress of the run."""

import math
import os
import socket
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
from pydantic import ConfigDict

from dsprune.errors import StoppedError, UserError
from dsprune.utils.files import replace_text
from dsprune.utils.records import Count, Record, Seconds, read_record
from dsprune.utils.text import first_line

if TYPE_CHECKING:
    from dsprune.ranks.ranks import Ranks

__all__ = ["State", "Status", "StatusFile", "read_status", "seconds_after_boot"]

State = Literal["running", "stopped", "finished", "failed"]

WRITE_INTERVAL = 2.0
"""Seconds between two writes during a run, to spare the file systems of clusters."""


class Status(Record):
    """The content of `status.json`.

    Attributes:
        state: the state at `updated`; a run that was killed still shows `running`.
        reason: why the run stopped or failed, in one line.
        host: the host of rank 0.
        pid: process id of rank 0.
        world_size: number of ranks.
        process_started: seconds from the start of the host to the start of the process, independent of the clock; with
            `pid` it identifies the process. None = unknown.
        started: when the run started, in seconds since 1970.
        updated: when the file was written, in seconds since 1970.
        step: number of applied optimizer steps.
        total_steps: the last step of the timetable.
        phase: phase of the schedule: `dense`, `prune` or `recover`.
        sparsity: fraction of zeros of the prunable weights.
        loss: mean loss of the steps between the last two log lines.
        checkpoint: tag of the newest complete checkpoint.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    state: State
    reason: str | None = None
    host: str
    pid: int
    world_size: int
    process_started: float | None = None
    started: Seconds
    updated: Seconds
    step: Count
    total_steps: Count
    phase: str
    sparsity: float = 0.0
    loss: float | None = None
    checkpoint: str | None = None


def read_status(path: Path) -> Status:
    """Read a `status.json`.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file: give the folder of a run that dsprune train began")
    return read_record(path, Status, "the state of a run", "remove it and resume the run")


def seconds_after_boot(process: psutil.Process) -> float:
    """Return the seconds from the start of the host to the start of a process, independent of the system's clock."""
    return float(process.create_time() - psutil.boot_time())


class StatusFile:
    """Writes a `status.json` on rank 0; on other ranks it writes nothing.

    As a context manager it writes the file at the start and at the end. The state at the end is `finished`,
    `stopped` after a `StoppedError` or a signal, or `failed` after any other error, with its first line.

    Args:
        path: path of the file.
        ranks: this process among all.
        **known: fields of `Status` that are known at the start.
    """

    def __init__(self, path: Path, ranks: "Ranks", **known: Any) -> None:
        self._path, self._is_writer = path, ranks.is_first
        self._written = -math.inf
        now = time.time()
        self._status = Status(
            state="running",
            host=socket.gethostname(),
            pid=os.getpid(),
            world_size=ranks.world_size,
            process_started=seconds_after_boot(psutil.Process()),
            started=now,
            updated=now,
            **known,
        )

    def __enter__(self) -> "StatusFile":
        self._write()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoppedError):
            self._set(state="stopped", reason=str(error))
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self._set(state="stopped", reason="ended by a signal")
        elif error is not None:
            self._set(state="failed", reason=f"{type(error).__name__}: {first_line(error)}")
        else:
            self._set(state="finished")
        with suppress(OSError) if error else nullcontext():  # a full disk must not hide the first error
            self._write()

    def update(self, **changes: Any) -> None:
        """Set some fields, and write the file if the last write is at least `WRITE_INTERVAL` ago."""
        self._set(**changes)
        if time.monotonic() - self._written >= WRITE_INTERVAL:
            self._write()

    def fail(self, reason: str) -> None:
        """Write that the run failed, just before the process ends without leaving the context."""
        self._set(state="failed", reason=reason)
        self._write()

    def _set(self, **changes: Any) -> None:
        self._status = Status.model_validate(self._status.model_dump() | changes)

    def _write(self) -> None:
        self._set(updated=time.time())
        self._written = time.monotonic()
        if self._is_writer:
            replace_text(self._path, self._status.model_dump_json(indent=1) + "\n")
