"""Read the file in which Weights & Biases keeps an offline run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

records: Any = wandb_internal_pb2  # generated, without types

BLOCK, HEADER = 32768, 7  # of LevelDB's log format, which the file has
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """The content of a run for the server.

    Attributes:
        run: id, project, group, name, tags.
        config: by key.
        rows: the logged values, one row per step.
        summary: by key.
        artifacts: with the names of their files.
        system: names of the system metrics.
        exit_code: exit code of the run, or None.
        is_preempting: whether the run announced that it will be resumed.
    """

    run: Any = field(default_factory=records.RunRecord)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    system: set[str] = field(default_factory=set)
    exit_code: int | None = None
    is_preempting: bool = False


def read_offline_run(path: Path) -> OfflineRun:
    """Read a `run-ID.wandb` file."""
    found = OfflineRun()
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= _values(record.run.config.update)
        elif kind == "config":
            found.config |= _values(record.config.update)
        elif kind == "history":
            found.rows.append(_values(record.history.item))
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "stats":
            found.system |= {item.key for item in record.stats.item}
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
        elif kind == "preempting":
            found.is_preempting = True
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[Any]:
    """Yield the whole records; the last one is incomplete while it is written."""
    assert content[:4] == b":W&B"
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too short for a header: padding
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        data = content[place + HEADER : place + HEADER + length]
        if len(data) < length:
            return
        place += HEADER + length
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            yield records.Record.FromString(parts)
