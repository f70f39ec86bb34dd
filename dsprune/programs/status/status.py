"""`dsprune status`: a table of runs."""

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsprune.errors import UserError
from dsprune.programs.run import RunFolder
from dsprune.programs.status.standing import Standing, read_standing

__all__ = ["status"]

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
            _say(console, f"{folder}: {words}")
    for problem in problems.values():
        _say(console, str(problem))


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


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
