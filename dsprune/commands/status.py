"""`dsprune status` and `dsprune stop`: print the state of runs from their folders and processes, and stop a run."""

import itertools
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from dsprune.checkpoint.tags import find_checkpoints, latest_tag
from dsprune.errors import UserError
from dsprune.masks.manifest import read_manifest
from dsprune.train.display import describe_metrics
from dsprune.train.run_folder import RunFolder
from dsprune.train.run_records import read_rows, read_summary
from dsprune.train.status_file import Status, read_status, seconds_after_boot
from dsprune.utils.console import cell, print_table, say
from dsprune.utils.files import describe_system_error, find_files
from dsprune.utils.text import percent

__all__ = ["SILENCE", "read_run_state", "status", "stop"]

SILENCE = 300.0
"""Seconds without an update of `status.json` that are always allowed, for an evaluation or a checkpoint."""

RECENT = 10
"""Number of log lines for the estimate of the remaining time."""

LONGEST = 1e12
"""Largest duration to print, in seconds; larger ones come from a damaged file."""

COLUMNS = ("state", "phase", "step", "sparsity", "loss", "left", "checkpoint")

STYLES = {"running": "green", "finished": "bold green", "stopped": "yellow", "failed": "red", "dead": "red"}


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        status: the newest `status.json`.
        death: why a run whose status is `running` is considered dead; None = it is not.
        seconds_left: seconds until the end of the timetable; None = unknown, or the run is not running.
        checkpoint: tag of the checkpoint to resume from; None = there is none.
        checkpoint_age: seconds since that checkpoint was written.
        result: the metrics of a finished run.
    """

    status: Status
    death: str | None
    seconds_left: float | None
    checkpoint: str | None
    checkpoint_age: float | None
    result: dict[str, float]

    @property
    def name(self) -> str:
        """`running`, `stopped`, `finished`, `failed`, or `dead`: its process ended without a final status."""
        return "dead" if self.death else self.status.state


def status(folders: Sequence[Path], console: Console) -> None:
    """Print the state of runs in a table, then one line for each run that is not running.

    A folder with checkpoints of a script, and a folder without a run among several, get a line.

    The arguments are the options of `dsprune status`.

    Raises:
        UserError: no folder holds a run, or one of them does not exist.
    """
    now = time.time()
    states: dict[Path, RunState] = {}
    scripts: list[str] = []
    problems: dict[Path, UserError] = {}
    for folder in [found for given in folders for found in _runs_in(given, problems)]:
        run = RunFolder(folder)
        try:
            if not run.status.exists() and (checkpoints := find_checkpoints(folder)):
                scripts.append(_of_script(checkpoints[0], now))
            else:
                states[folder] = read_run_state(run, now)
        except UserError as error:
            problems[folder] = error
    if not states and not scripts:
        raise next(iter(problems.values()))
    if states:
        print_table(console, _table(states))
    for line in scripts:
        say(console, line)
    for folder, state in states.items():
        if ending := _ending(state):
            say(console, f"{folder}: {ending}")
    for folder, problem in problems.items():
        if folder.exists():
            say(console, str(problem))
    if missing := [folder for folder in problems if not folder.exists()]:
        raise UserError(f"{', '.join(map(str, missing))}: no such folder: give folders of runs")


def _runs_in(folder: Path, problems: dict[Path, UserError]) -> list[Path]:
    """Return the folder itself if it holds a run, or if no run is below it; otherwise the runs below it.

    Folders that cannot be read are added to `problems`.
    """

    def add(error: OSError) -> None:
        problems[Path(error.filename)] = UserError(describe_system_error(error))

    if RunFolder(folder).status.exists():
        return [folder]
    return [file.parent for file in find_files(folder, RunFolder(folder).status.name, add)] or [folder]


def _of_script(checkpoint: Path, now: float) -> str:
    """Describe step and sparsity of the newest checkpoint in a folder that `dsprune train` did not make."""
    manifest, age = read_manifest(checkpoint), _duration(now - checkpoint.stat().st_mtime)
    sparsity, total = manifest.num_pruned / manifest.num_prunable, manifest.timetable.total_steps
    step = f"step {manifest.step:,} of {total:,}, sparsity {percent(sparsity)}"
    return f"{checkpoint}: {step}, {age} ago, saved by a script"


def read_run_state(run: RunFolder, now: float) -> RunState:
    """Read the state of a run.

    Args:
        run: the folder.
        now: seconds since 1970.

    Raises:
        UserError: the folder holds no run, or its status cannot be read.
    """
    status = read_status(run.status)
    summary = read_summary(run.summary)
    lines = [line for line in read_rows(run.metrics) if line.get("seconds_per_step") is not None][-RECENT:]
    speed = statistics.median(line["seconds_per_step"] for line in lines) if lines else None
    death = _death(status, now, _longest_silence(lines)) if status.state == "running" else None
    left = None
    if status.state == "running" and death is None and speed is not None:
        left = max(0.0, (status.total_steps - status.step) * speed - max(0.0, now - status.updated))
    tag = latest_tag(run.checkpoints)
    checkpoint = run.checkpoints / tag if tag is not None and (run.checkpoints / tag).is_dir() else None
    return RunState(
        status=status,
        death=death,
        seconds_left=left,
        checkpoint=None if checkpoint is None else checkpoint.name,
        checkpoint_age=None if checkpoint is None else max(0.0, now - checkpoint.stat().st_mtime),
        result={} if summary is None else summary.metrics,
    )


def _longest_silence(lines: Sequence[dict[str, Any]]) -> float:
    """Return the seconds without an update after which a run is dead: ten times its longest logging interval."""
    gaps = [
        (later["step"] - earlier["step"]) * later["seconds_per_step"]
        for earlier, later in itertools.pairwise(lines)
    ]
    return max(SILENCE, 10 * max(gaps, default=0.0))


def _death(status: Status, now: float, longest_silence: float) -> str | None:
    """Return why a run counts as dead: by its process on its own host, by the time of its last status elsewhere."""
    if status.host == socket.gethostname():
        alive = _is_alive(status)
        return None if alive else f"process {status.pid} on {status.host} ended without a final status"
    silence = now - status.updated
    if silence > longest_silence:
        return f"no update from {status.host} for {silence / 60:.0f} minutes"
    return None


def _is_alive(status: Status) -> bool:
    """Return whether the process that wrote the status still runs: the system reuses process ids."""
    try:
        process = psutil.Process(status.pid)
        same = status.process_started is None or abs(seconds_after_boot(process) - status.process_started) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _table(states: Mapping[Path, RunState]) -> Table:
    table = Table("run", *COLUMNS, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for folder, state in states.items():
        table.add_row(cell(str(folder)), cell(state.name, STYLES[state.name]), *map(cell, _cells(state)))
    return table


def _cells(state: RunState) -> list[str]:
    status, age = state.status, state.checkpoint_age
    return [
        status.phase,
        f"{status.step:,} of {status.total_steps:,}",
        percent(status.sparsity),
        "" if status.loss is None else f"{status.loss:.4f}",
        "" if state.seconds_left is None else _duration(state.seconds_left),
        "none" if age is None else f"{state.checkpoint}, {_duration(age)} ago",
    ]


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, LONGEST))))


def _ending(state: RunState) -> str:
    """Describe how a run ended, and how to resume it; empty for a running one."""
    if state.name == "finished":
        return f"finished: {describe_metrics(state.result)}"
    if state.name == "running":
        return ""
    reason = state.death or state.status.reason or "no reason given"
    resume = (
        "" if state.checkpoint is None else f"; run dsprune train again to resume from {state.checkpoint}"
    )
    return f"{state.name}: {reason}{resume}"


def stop(path: Path, console: Console) -> None:
    """Create the stop file of a running run, which then stops with a checkpoint.

    Raises:
        UserError: `path` is not a run, or the run has ended.
    """
    run = RunFolder(path)
    status = read_status(run.status)
    if status.state != "running":
        raise UserError(f"{path}: the run is not running, it has {status.state}: nothing to stop")
    run.stop_file.touch()
    say(console, f"{path}: asked to stop after step {status.step}; dsprune train resumes it")
