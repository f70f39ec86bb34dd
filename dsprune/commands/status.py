"""`dsprune status`: where runs stand, by the files in their folders and, on their own host, by their process."""

import itertools
import json
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsprune.errors import UserError
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import Status, read_status
from dsprune.utils.console import say

__all__ = ["SILENCE", "Standing", "read_standing", "status"]

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


STYLES = {"running": "green", "finished": "bold green", "stopped": "yellow", "failed": "red", "dead": "red"}


def status(folders: Sequence[Path], console: Console) -> None:
    """Print where runs stand, a line each, and what there is to say of those that do not run.

    A folder among others that is no run's is said to be none.

    Raises:
        UserError: none is a run's folder.
    """
    now = time.time()
    standings: dict[Path, Standing] = {}
    problems: dict[Path, UserError] = {}
    for folder in folders:
        try:
            standings[folder] = read_standing(RunFolder(folder), now)
        except UserError as error:
            problems[folder] = error
    if not standings:
        raise next(iter(problems.values()))
    columns = "run", "state", "phase", "step", "sparsity", "loss", "left", "checkpoint"
    table = Table(*columns, box=None, pad_edge=False)
    for folder, standing in standings.items():
        table.add_row(str(folder), Text(standing.state, STYLES[standing.state]), *_numbers(standing))
    console.print(table)
    for folder, standing in standings.items():
        if words := _last_words(standing):
            say(console, f"{folder}: {words}")
    for problem in problems.values():
        say(console, str(problem))


def _numbers(standing: Standing) -> list[str]:
    said, age = standing.status, standing.checkpoint_age
    return [
        said.phase,
        f"{said.step:,} of {said.total_steps:,}",
        f"{said.sparsity:.2%}",
        "" if said.loss is None else f"{said.loss:.4f}",
        "" if standing.seconds_left is None else _duration(standing.seconds_left),
        "none" if age is None else f"{standing.checkpoint}, {_duration(age)} ago",
    ]


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _last_words(standing: Standing) -> str:
    """How a run ended, and the way on."""
    said = standing.status
    resume = "" if standing.checkpoint is None else f"; to go on from {standing.checkpoint}, train it again"
    if standing.state == "finished":
        return "finished: " + ", ".join(f"{name} {value:.4f}" for name, value in standing.result.items())
    if standing.state == "running":
        return ""
    reason = standing.death or said.reason or "no reason given"
    return f"{standing.state}: {reason}{resume}"
