"""Read the folder of a run that is finished, stopped or killed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import Timetable
from dsprune.train.run_folder import RunFolder
from dsprune.train.run_records import Start, Summary, read_rows, read_start, read_summary
from dsprune.train.status_file import Status, read_status
from dsprune.utils.files import find_files
from dsprune.utils.installation import PACKAGES
from dsprune.utils.records import read_json_object

__all__ = ["VALIDATION", "Run", "find_folders", "origin_of", "read_run"]

Row = dict[str, Any]

VALIDATION = "validation_"
"""Prefix of the logged names of the metrics on the validation split."""

MAX = 1e30
"""Larger values, and inf, are not drawn."""


@dataclass(frozen=True)
class Run:
    """The content of a run's folder.

    Attributes:
        path: the folder.
        recipe: the resolved recipe.
        ds_config: the resolved ds_config; empty if missing.
        rows: the rows of metrics.jsonl, in order.
        summary: the result; None unless the run is finished.
        status: the last recorded state; None if missing.
        start: command, versions and timetable at the start of the run; empty if missing.
    """

    path: Path
    recipe: Recipe
    ds_config: Row
    rows: tuple[Row, ...]
    summary: Summary | None
    status: Status | None
    start: Start

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    @property
    def command(self) -> str:
        """The command of the run, or one that repeats it if none was recorded."""
        return self.start.command or f"dsprune train {self.path}/recipe.yaml output=..."

    @property
    def state(self) -> str:
        """`finished`, the recorded state, or `unfinished`."""
        if self.summary is not None:
            return "finished"
        return "unfinished" if self.status is None else self.status.state

    @property
    def last_step(self) -> int:
        """The last known step."""
        known: list[int] = [row["step"] for row in self.rows]
        recorded = 0 if self.status is None else self.status.step
        return max([*known, recorded, 0 if self.summary is None else self.summary.steps])

    @cached_property
    def timetable(self) -> Timetable | None:
        """The timetable at the start of the run; None if it was not recorded."""
        if self.start.timetable is not None:
            return self.start.timetable
        model = self.path / "model"
        return read_manifest(model).timetable if (model / MANIFEST).is_file() else None

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a logged number, without those that are NaN or inf."""
        known = [(row["step"], row[name]) for row in self.rows if _is_number(row.get(name))]
        return [step for step, _ in known], [float(value) for _, value in known]

    @property
    def headline(self) -> str | None:
        """Name of the task's first metric; None before the first evaluation."""
        if self.summary is not None:
            return next(iter(self.summary.metrics), None)
        logged = (key for row in self.rows for key in row if key.startswith(VALIDATION))
        return next((key.removeprefix(VALIDATION) for key in logged), None)

    @property
    def evaluations(self) -> tuple[list[int], list[float]]:
        """Steps and values of the headline metric."""
        return self.series(f"{VALIDATION}{self.headline}")

    @property
    def score(self) -> float | None:
        """The headline metric at the end of the run; None unless the run is finished."""
        if self.summary is None or self.headline is None:
            return None
        return self.summary.metrics[self.headline]

    @property
    def best(self) -> float | None:
        """The best evaluation at the target sparsity, as SMC-Bench reports it; None unless the run is finished.

        A higher value of a task's first metric is better.
        """
        if self.score is None:
            return None
        timetable, evaluations = self.timetable, zip(*self.evaluations, strict=True)
        later = [value for step, value in evaluations if timetable is None or timetable.is_at_target(step)]
        return max([*later, self.score])  # in this order, because a last score of NaN is not the largest

    def sparsity(self, convention: str) -> float:
        """Return the fraction of zeros, of the `prunable` weights or of all of the `model`, at the last known step."""
        if self.summary is not None:
            return self.summary.sparsity.get(convention, 0.0)
        logged = self.series(f"sparsity_{convention}")[1]
        return logged[-1] if logged else 0.0

    @property
    def updates(self) -> dict[int, Row]:
        """The rows of mask updates by step; an update happens before its step and is logged after it."""
        rows = [row for row in self.rows if "update_sparsity" in row]
        return {row.get("update_step", row["step"] - 1): row for row in rows}


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: the folder has no recipe, or a file is damaged.
    """
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        raise UserError(f"{path}: holds no recipe.yaml, so no run: give the folder of a run")
    return Run(
        path=path,
        recipe=load_recipe(str(folder.recipe)),
        ds_config=read_json_object(folder.ds_config, "a ds_config", "fix or remove it") or {},
        rows=tuple(read_rows(folder.metrics)),
        summary=read_summary(folder.summary),
        status=read_status(folder.status) if folder.status.exists() else None,
        start=read_start(folder.start),
    )


def find_folders(paths: Sequence[Path], file: str) -> list[Path]:
    """Return the folders with `file` at or below the given folders, each once.

    Raises:
        UserError: a folder cannot be read.
    """
    found: dict[Path, Path] = {}  # by their real paths: a link leads to the same folder
    for path in paths:
        for one in [path / file] if (path / file).is_file() else find_files(path, file):
            found.setdefault(one.parent.resolve(), one.parent)
    return list(found.values())


def origin_of(runs: Sequence[Run]) -> str:
    """Return command, seeds and versions in a line; if there are several commands, only their number."""
    commands = list(dict.fromkeys(run.command for run in runs))
    made_by = commands[0] if len(commands) == 1 else f"{len(runs)} runs, commands below"
    seeds = sorted({run.recipe.seed for run in runs})
    label = "seed" if len(seeds) == 1 else "seeds"
    known = {name: {run.start.versions.get(name) for run in runs} - {None, ""} for name in PACKAGES}
    versions = [f"{name} {' and '.join(sorted(map(str, found)))}" for name, found in known.items() if found]
    return (
        f"{made_by} · {label} {', '.join(map(str, seeds))} · {', '.join(versions) or 'versions not recorded'}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX and not math.isnan(value)
