"""Where a run stands, by the files in its folder and, on its own host, by its process."""

import itertools
import json
import socket
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dsprune.programs.run import RunFolder
from dsprune.programs.status_file import Status, read_status

__all__ = ["SILENCE", "Standing", "read_standing"]

SILENCE = 300.0
"""Seconds without a sign of life that a run may take at least, for an evaluation or a checkpoint."""

RECENT = 10
"""Log lines that the time left is reckoned from."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        status: what it said last.
        death: why a run that says that it is running is not, as far as can be seen from here, or None.
        seconds_left: until the end of the timetable, or None when that is not known, or the run does not run.
        seconds_per_step: lately, or None before the first log line.
        checkpoint: tag of the checkpoint that it would resume from, or None.
        checkpoint_age: seconds since that was written.
        result: the metrics of a finished run.
    """

    status: Status
    death: str | None
    seconds_left: float | None
    seconds_per_step: float | None
    checkpoint: str | None
    checkpoint_age: float | None
    result: dict[str, float]

    @property
    def state(self) -> str:
        """`running`, `stopped`, `finished`, `failed`, or `dead`: one that was running and is no more."""
        return "dead" if self.death else self.status.state


def read_standing(run: RunFolder, now: float) -> Standing:
    """Read a run's folder.

    Args:
        run: the folder.
        now: seconds since 1970.

    Raises:
        UserError: it is no run's folder, or its status cannot be read.
    """
    status = read_status(run.status)
    lines = [line for line in _read_lines(run.metrics) if "seconds_per_step" in line][-RECENT:]
    speed = statistics.median(line["seconds_per_step"] for line in lines) if lines else None
    death = _death(status, now, _longest_silence(lines)) if status.state == "running" else None
    left = None
    if status.state == "running" and death is None and speed is not None:
        left = max(0.0, (status.total_steps - status.step) * speed - (now - status.updated))
    checkpoint = _newest_checkpoint(run.checkpoints)
    return Standing(
        status=status,
        death=death,
        seconds_left=left,
        seconds_per_step=speed,
        checkpoint=None if checkpoint is None else checkpoint.name,
        checkpoint_age=None if checkpoint is None else now - checkpoint.stat().st_mtime,
        result=json.loads(run.summary.read_text())["metrics"] if run.summary.exists() else {},
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl: the last may be in the making."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _longest_silence(lines: Sequence[dict[str, Any]]) -> float:
    """Seconds after which a run that says nothing is taken for dead: ten times what it lets pass as a rule."""
    gaps = [
        (later["step"] - earlier["step"]) * later["seconds_per_step"]
        for earlier, later in itertools.pairwise(lines)
    ]
    return max(SILENCE, 10 * max(gaps, default=0.0))


def _death(status: Status, now: float, longest_silence: float) -> str | None:
    if status.host == socket.gethostname() and not _is_alive(status):
        return f"process {status.pid} is gone from {status.host}, and could not say why"
    silence = now - status.updated
    if silence > longest_silence:
        return f"no sign of life from {status.host} for {silence / 60:.0f} minutes"
    return None


def _is_alive(status: Status) -> bool:
    """Whether the process is there, and is the one that wrote: a number is given again to another."""
    try:
        process = psutil.Process(status.pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= status.started + 1
    except psutil.NoSuchProcess:
        return False


def _newest_checkpoint(folder: Path) -> Path | None:
    """The tag that `latest` names."""
    latest = folder / "latest"
    if not latest.exists():
        return None
    tag = folder / latest.read_text().strip()
    return tag if tag.is_dir() else None
