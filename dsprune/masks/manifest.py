"""The manifest of masks on disk, `dsprune.json`: a record of its own, independent of recipes.

Format 2 holds what the masks need to be read and checked: names, shapes, targets and scope. Format 1 held the
recipe's pruning section and is still read.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsprune.errors import UserError
from dsprune.schedule import Timetable

__all__ = ["MANIFEST", "FileEntry", "MaskManifest", "TensorEntry", "read_manifest"]

MANIFEST = "dsprune.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorEntry(_Strict):
    """One pruned tensor.

    Attributes:
        shape: full shape.
        target: fraction of its weights, or of those of its group, that are zero at the end.
        num_pruned: number of weights that are pruned.
        initial_pruned: number that were pruned before the first mask update.
    """

    shape: tuple[int, ...]
    target: float
    num_pruned: int
    initial_pruned: int = 0


class FileEntry(_Strict):
    """One rank's file; `slices` gives start and length of each tensor's slice."""

    file: str
    sha256: str
    slices: dict[str, tuple[int, int]]


class MaskManifest(_Strict):
    """The content of `dsprune.json`.

    Attributes:
        step: number of applied optimizer steps when the masks were written.
        timetable: the run's timetable.
        scope: which tensors share a quota, see `dsprune.selection.groups`.
        digest: of the complete masks, independent of the sharding.
        tensors: every pruned tensor, in the global order.
        files: the masks, one file a rank.
    """

    format: Literal[2] = 2
    step: int
    timetable: Timetable
    scope: str
    digest: int
    tensors: dict[str, TensorEntry]
    files: tuple[FileEntry, ...]


def read_manifest(folder: Path) -> MaskManifest:
    """Read and check `dsprune.json`, of format 1 or 2.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST}, so no masks: give a folder that dsprune wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("format") == 1:
            values = _from_format_1(values)
        return MaskManifest.model_validate(values)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f"{path}: not a manifest of format 1 or 2 ({reason}): use another checkpoint"
        ) from error


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a manifest of format 1 under the names of format 2."""
    pruning, timetable = values["pruning"], dict(values["timetable"])
    tensors = {
        name: {
            "shape": entry["shape"],
            "target": pruning["sparsity"] if entry["sparsity"] is None else entry["sparsity"],
            "num_pruned": entry["num_pruned"],
            "initial_pruned": entry.get("begun_with", 0),
        }
        for name, entry in values["tensors"].items()
    }
    timetable["updates"] = timetable.pop("events")
    return {
        "step": values["clock"],
        "timetable": timetable,
        "scope": pruning["scope"],
        "digest": values["digest"],
        "tensors": tensors,
        "files": values["files"],
    }
