"""The JSON records of a run: `summary.json`, `start.json` and the lines of `metrics.jsonl`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat

from dsprune.schedule import Timetable
from dsprune.utils.records import Count, Seconds, parse_record, read_bytes, read_record

__all__ = ["Start", "Summary", "read_rows", "read_start", "read_summary"]


WAY_OUT = "fix or remove it"


class _Open(BaseModel):
    """May hold other keys."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Summary(_Open):
    """The result of a finished run.

    Attributes:
        metrics: the metrics of the model by name, the headline metric first.
        sparsity: fraction of zeros of the `prunable` weights and of all of the `model`.
        steps: number of applied optimizer steps.
        seconds: duration of the run since its last start.
        validation_examples: number of evaluated examples; None in runs that did not record it.
    """

    metrics: dict[str, float]
    sparsity: dict[str, float] = {}
    steps: Count = 0
    seconds: Seconds | None = None
    validation_examples: Count | None = None


class Start(_Open):
    """How a run was started.

    Attributes:
        command: the command.
        world_size: number of ranks.
        device: their device.
        versions: version of each package, by name.
        timetable: the run's timetable.
        data: a digest of the encoded examples, by split.
    """

    command: str | None = None
    world_size: int | None = None
    device: str | None = None
    versions: dict[str, str] = {}
    timetable: Timetable | None = None
    data: dict[str, str] = {}


class _Row(_Open):
    """The keys of a row that dsprune reads. Other numbers may be logged as text, such as nan."""

    step: Count
    seconds_per_step: Seconds | None = None
    sparsity_prunable: FiniteFloat | None = None
    sparsity_model: FiniteFloat | None = None
    update_step: Count | None = None
    update_sparsity: FiniteFloat | None = None
    update_seconds: Seconds | None = None
    update_bytes_sent: Count | None = None
    update_regrown: Count | None = None
    share_regrown: FiniteFloat | None = None
    tensor_sparsity: dict[str, FiniteFloat] | None = None


def read_summary(path: Path) -> Summary | None:
    """Read a `summary.json`; None if there is none, that is, if the run is not finished.

    Raises:
        UserError: the file is damaged.
    """
    return read_record(path, Summary, "a summary", WAY_OUT) if path.exists() else None


def read_start(path: Path) -> Start:
    """Read a `start.json`; empty if there is none.

    Raises:
        UserError: the file is damaged.
    """
    return read_record(path, Start, "a record of a start", WAY_OUT) if path.exists() else Start()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a `metrics.jsonl`; a killed run may have left half of one at the end.

    Raises:
        UserError: a line is damaged.
    """
    if path.exists():
        *lines, _ = read_bytes(path, WAY_OUT).split(b"\n")
        for number, line in enumerate(lines, start=1):
            row = parse_record(line, _Row, f"{path}: line {number}", "a row of metrics", "remove the line")
            yield row.model_dump(exclude_unset=True)
