"""The format of a store: what it holds, and the manifest that says so, written last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsprune.errors import UserError

__all__ = [
    "HEADS",
    "MANIFEST",
    "FileEntry",
    "Kind",
    "Output",
    "StoreManifest",
    "StoreSpec",
    "Strict",
    "check_origin",
    "read_manifest",
    "shard_name",
]

Kind = Literal["full", "topk", "hidden"]


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Strict(BaseModel):
    """No unknown fields, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(Strict):
    """One output of the teacher; a record holds a block of its rows, each one softmax over `classes`.

    Attributes:
        classes: width of a row. Narrower rows are filled up with -inf.
        hidden: width of the last linear layer's input; kind `hidden` only.
    """

    classes: int = Field(ge=1)
    hidden: int | None = Field(default=None, ge=1)


class StoreSpec(Strict):
    """What is stored, and how.

    Attributes:
        kind: `full`, all logits; `topk`, the k largest and the mass of the rest; `hidden`, the input of the
            last linear layer, and once that layer.
        outputs: the teacher's outputs by name.
        dtype: of logits or hidden states.
        k: kind `topk`: how many; of fewer classes, all.
        temperatures: kind `topk`: for which the mass of the rest is kept.
        head_dtype: kind `hidden`: of the layer's weights.
    """

    kind: Kind
    outputs: dict[str, Output] = Field(min_length=1)
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    k: int | None = Field(default=None, ge=1)
    temperatures: tuple[float, ...] = ()
    head_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.kind == "topk") != (self.k is not None and bool(self.temperatures)):
            raise ValueError("k and temperatures are what kind topk needs, and no other kind takes")
        if any(temperature <= 0 for temperature in self.temperatures):
            raise ValueError("temperatures must be above 0")
        if any((self.kind == "hidden") != (output.hidden is not None) for output in self.outputs.values()):
            raise ValueError(
                "hidden, the width, is what each output of kind hidden needs, and no other takes"
            )
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch calls it."""
        return DTYPES[self.dtype]

    @property
    def torch_head_dtype(self) -> torch.dtype:
        """`head_dtype` as torch calls it."""
        return DTYPES[self.head_dtype]


MANIFEST = "store.json"


HEADS = "head.safetensors"


class FileEntry(Strict):
    """One file; `seal` is the SHA-256 of its header, which has the SHA-256 of the rest."""

    file: str
    seal: str


class StoreManifest(Strict):
    """What `store.json` says.

    Attributes:
        spec: what is stored, and how.
        origin: fingerprints of teacher, tokenizer, dataset and preprocessing.
        plan: digest of the plan; the same in every file.
        num_records: number of records, each of another sample.
        num_rows: of each output.
        shards: the records, by ascending fingerprint.
        head: the last layers of kind `hidden`.
    """

    format: Literal[1] = 1
    spec: StoreSpec
    origin: dict[str, str]
    plan: str
    num_records: int
    num_rows: dict[str, int]
    shards: tuple[FileEntry, ...]
    head: FileEntry | None

    @property
    def header(self) -> dict[str, Any]:
        """What every file of the store says of it, too."""
        return self.model_dump(mode="json", exclude={"format", "shards", "head"})


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.safetensors"


def read_manifest(folder: Path) -> StoreManifest:
    """Read `store.json`.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST}, so no finished store: run `dsprune teacher` to the end")
    try:
        return StoreManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path}: not a manifest of format 1 ({reason}): use another store") from error


def check_origin(folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Compare what a store was made from, or as, with what it is to be used for.

    Raises:
        UserError: one or more differ; each is named with both sides.
    """
    differences = [
        f"{name} is {found.get(name, 'not told')} in the store and {value} here"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if differences:
        raise UserError(
            f"{folder}: made from something else: {'; '.join(differences)}: capture a store for this recipe"
        )
