"""What a run's folder tells, whether the run was finished, stopped or killed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import Timetable
from dsprune.train.run_folder import RunFolder

__all__ = ["Run", "find_folders", "read_run"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        path: the folder.
        recipe: as resolved.
        ds_config: as resolved; empty where there is none.
        rows: of metrics.jsonl, in the order of the step.
        summary: what came out; None unless the run was finished.
        status: where the run stands, as it last said; empty where it does not say.
        start: command, versions and timetable that the run began with; empty where it did not write them.
    """

    path: Path
    recipe: Recipe
    ds_config: Row
    rows: tuple[Row, ...]
    summary: Row | None
    status: Row
    start: Row

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    @property
    def state(self) -> str:
        """`finished`, what the status says, or `unfinished` where nothing says more."""
        return "finished" if self.summary is not None else str(self.status.get("state", "unfinished"))

    @property
    def last_step(self) -> int:
        """The last step that is known of."""
        known = [row["step"] for row in self.rows]
        return max([*known, int(self.status.get("step", 0)), int((self.summary or {}).get("steps", 0))])

    @cached_property
    def timetable(self) -> Timetable | None:
        """The timetable that the run began with; None where nothing tells."""
        if "timetable" in self.start:
            return Timetable.from_dict(self.start["timetable"])
        manifest = self.path / "model" / MANIFEST
        return Timetable.from_dict(_read_json(manifest)["timetable"]) if manifest.is_file() else None

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a logged number; what was not finite is left out."""
        known = [(row["step"], row[name]) for row in self.rows if isinstance(row.get(name), int | float)]
        return [step for step, _ in known], [float(value) for _, value in known]

    @property
    def headline(self) -> str | None:
        """Name of the task's first metric; None before the first evaluation."""
        if self.summary is not None:
            return next(iter(self.summary["metrics"]), None)
        logged = (key for row in self.rows for key in row if key.startswith("validation_"))
        return next((key.removeprefix("validation_") for key in logged), None)

    @property
    def score(self) -> float | None:
        """The headline metric at the end of the run; None unless it was finished."""
        if self.summary is None or self.headline is None:
            return None
        return float(self.summary["metrics"][self.headline])

    def sparsity(self, convention: str) -> float:
        """Fraction of zeros: of the `prunable` weights, or of all of the `model`; as far as the run went."""
        if self.summary is not None:
            return float(self.summary["sparsity"].get(convention, 0.0))
        logged = self.series(f"sparsity_{convention}")[1]
        return logged[-1] if logged else 0.0

    @property
    def updates(self) -> list[Row]:
        """The rows that tell of a mask update."""
        return [row for row in self.rows if "update_sparsity" in row]


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: there is no recipe in it, or a file is damaged.
    """
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        raise UserError(f"{path}: holds no recipe.yaml, so no run: give the folder of a run")
    return Run(
        path=path,
        recipe=load_recipe(str(folder.recipe)),
        ds_config=_read_json(folder.ds_config),
        rows=tuple(_read_rows(folder.metrics)),
        summary=_read_json(folder.summary) or None,
        status=_read_json(path / "status.json"),
        start=_read_json(folder.start),
    )


def find_folders(paths: Sequence[Path], file: str) -> list[Path]:
    """The folders that hold `file`: those given, and those anywhere below them; each once."""
    found: dict[Path, None] = {}
    for path in paths:
        for one in [path / file] if (path / file).is_file() else sorted(path.rglob(file)):
            found[one.parent] = None
    return list(found)


def _read_json(path: Path) -> Row:
    """The object in a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}): mend or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not a JSON object: mend or remove it")
    return values


def _read_rows(path: Path) -> Iterator[Row]:
    """The whole lines; a killed run may have left half of one at the end."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON ({error}): remove the line") from error
