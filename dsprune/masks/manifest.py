"""The manifest of masks on disk, `dsprune.json`, which is independent of the recipe.

Format 2 holds names, shapes, targets, scope and pattern, to read and check the masks. Format 1 held the recipe's
pruning section; it can still be read. ZeRO stage 3 cuts tensors into equal parts. Their slices are not listed, so that
the manifest of thousands of ranks stays small.
"""

import re
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from dsprune.errors import UserError
from dsprune.model.shard import PrunableTensor, equal_part
from dsprune.recipe.pattern import UNSTRUCTURED, check_pattern
from dsprune.recipe.section import Fraction, Named
from dsprune.registry import SCOPES
from dsprune.schedule import Timetable
from dsprune.utils.records import Count, Record, read_record

__all__ = ["MANIFEST", "FileEntry", "MaskManifest", "TensorEntry", "UpdateEntry", "read_manifest"]

MANIFEST = "dsprune.json"


class TensorEntry(Record):
    """A pruned tensor.

    Attributes:
        shape: full shape.
        target: target sparsity, of the tensor or of its group: the fraction of zeros at the end.
        num_pruned: number of pruned weights.
        initial_pruned: number of pruned weights before the first mask update.
        inputs_first: whether its matrices are stored as `[inputs, outputs]`.
        num_regrown: number of kept weights that grew back.
    """

    shape: tuple[PositiveInt, ...]
    target: Fraction
    num_pruned: Count
    initial_pruned: Count = 0
    inputs_first: bool = False
    num_regrown: Count = 0


class UpdateEntry(Record):
    """A mask update that took place.

    Attributes:
        step: the step of the update.
        num_pruned: number of pruned weights after it; counted in the masks if the recipe lets weights grow back.
        num_regrown: number of weights that grew back at it.
    """

    step: Count
    num_pruned: Count
    num_regrown: Count = 0


class FileEntry(Record):
    """The file of one rank.

    Attributes:
        file: name of the file, which contains the number of its part and the number of parts.
        sha256: checksum of the file.
        slices: start and length of each tensor's slice, by the tensor's name. None = all tensors are cut into equal
            parts, and the name of the file tells which part it holds.
    """

    # No path out of the folder.
    file: Annotated[str, Field(pattern=r"^(masks|accumulators)-[^/\\]*\.safetensors$")]
    sha256: str
    slices: dict[str, tuple[Count, Count]] | None = None

    @model_validator(mode="after")
    def _check_part(self) -> "FileEntry":
        if self.part is not None and self.part[0] >= self.part[1]:
            raise ValueError(
                f"{self.file} has no slices, and its name gives no part (as in masks-00000-of-00002.safetensors)"
            )
        return self

    @cached_property
    def part(self) -> tuple[int, int] | None:
        """The number of the part, from 0, and the number of parts; None if slices are listed."""
        if self.slices is not None:
            return None
        match = re.fullmatch(r"\w+-(\d{5,9})-of-(\d{5,9})\.safetensors", self.file, re.ASCII)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def slice_of(self, tensor: PrunableTensor) -> tuple[int, int]:
        """Return start and length of a tensor's slice."""
        if self.slices is not None:
            return self.slices.get(tensor.name, (0, 0))
        return equal_part(tensor.numel, *(self.part or (0, 1)))


class MaskManifest(Record):
    """The content of `dsprune.json`.

    Attributes:
        step: number of applied optimizer steps when the masks were written.
        timetable: the run's timetable.
        scope: name of the scope, see `dsprune.selection.groups`.
        pattern: name of the pattern, see `dsprune.recipe.pattern`.
        digest: hash of the complete masks, independent of the sharding.
        regrows: whether the recipe lets weights grow back; the mask files then mark those that did.
        updates: the recorded mask updates; earlier versions did not record them.
        tensors: all pruned tensors by name, in the global order.
        files: the mask files, one per rank.
        accumulators: dtype of each accumulator of the pruning method, by name.
        accumulator_files: their files, one per rank.
    """

    format: Literal[2] = 2
    step: Count
    timetable: Timetable
    scope: Annotated[str, Named(SCOPES)]
    pattern: Annotated[str, AfterValidator(check_pattern)] = UNSTRUCTURED.text
    digest: int
    regrows: bool = False
    updates: tuple[UpdateEntry, ...] = ()
    tensors: dict[str, TensorEntry]
    files: tuple[FileEntry, ...]
    accumulators: dict[str, str] = Field(default_factory=dict)
    accumulator_files: tuple[FileEntry, ...] = ()

    @property
    def num_pruned(self) -> int:
        """Number of pruned weights."""
        return sum(entry.num_pruned for entry in self.tensors.values())

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights."""
        return sum(prod(entry.shape) for entry in self.tensors.values())

    def to_json(self) -> str:
        """Return the content of the file."""
        return self.model_dump_json(indent=1, exclude_none=True)

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("format") != 1:
            return values
        try:
            return _from_format_1(values)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"format 1 without {error}") from error


def read_manifest(folder: Path) -> MaskManifest:
    """Read and check `dsprune.json`, of format 1 or 2.

    Raises:
        UserError: the manifest is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder}: no {MANIFEST}, so no masks: give a folder that dsprune wrote")
    return read_record(path, MaskManifest, "a manifest of format 1 or 2", "use another checkpoint")


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
