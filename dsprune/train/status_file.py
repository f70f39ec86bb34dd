"""`status.json` in a run's folder: where the run stands, for whoever looks at the folder alone."""

import os
import socket
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsprune.errors import StoppedError, UserError
from dsprune.ranks.ranks import Ranks
from dsprune.utils.files import replace_text

__all__ = ["State", "Status", "StatusFile", "read_status"]

State = Literal["running", "stopped", "finished", "failed"]


EVERY = 2.0
"""Seconds between two writings while a run goes on: a file system of a cluster is not to be bothered."""


class Status(BaseModel):
    """What `status.json` says.

    Attributes:
        state: `running` is what it was at `updated`: a process that was killed could not say so.
        reason: why it stopped or failed, one line.
        host: where rank 0 is.
        pid: of rank 0.
        world_size: number of ranks.
        started: seconds since 1970.
        updated: seconds since 1970.
        step: the step, in applied optimizer steps.
        total_steps: where the step will end.
        phase: of the schedule: `dense`, `prune` or `recover`.
        sparsity: of the prunable weights.
        loss: mean of the steps since the log line before.
        checkpoint: tag of the newest complete checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    state: State
    reason: str | None = None
    host: str
    pid: int
    world_size: int
    started: float
    updated: float
    step: int
    total_steps: int
    phase: str
    sparsity: float = 0.0
    loss: float | None = None
    checkpoint: str | None = None


def read_status(path: Path) -> Status:
    """Read a `status.json`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return Status.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: give the folder of a run that dsprune train began") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path}: cannot be read ({reason}): remove it and go on with the run") from None


class StatusFile:
    """Keeps a `status.json`, on rank 0; what other ranks say goes nowhere.

    As a context manager it writes at the start, and at the end: `finished`, `stopped` after a `StoppedError`,
    or `failed` with the error's first line.
    """

    def __init__(self, path: Path, ranks: Ranks, **known: Any) -> None:
        """The file `path`, with some fields of `Status` that are known at the start."""
        self._path, self._is_writer = path, ranks.is_first
        now = time.time()
        self._status = Status(
            state="running",
            host=socket.gethostname(),
            pid=os.getpid(),
            world_size=ranks.world_size,
            started=now,
            updated=now,
            **known,
        )

    def __enter__(self) -> "StatusFile":
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoppedError):
            self._set(state="stopped", reason=str(error))
        elif error is not None:
            self._set(state="failed", reason=_first_line(error))
        else:
            self._set(state="finished")
        with suppress(OSError) if error else nullcontext():  # a full disk is told by what met it first
            self._write()

    def update(self, **changes: Any) -> None:
        """Take note of some fields; they are written when the last writing is some seconds ago."""
        self._set(**changes)
        if time.time() - self._status.updated >= EVERY:
            self._write()

    def _set(self, **changes: Any) -> None:
        self._status = Status.model_validate(self._status.model_dump() | changes)

    def _write(self) -> None:
        self._set(updated=time.time())
        if self._is_writer:
            replace_text(self._path, self._status.model_dump_json(indent=1) + "\n")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
