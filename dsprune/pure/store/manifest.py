"""The manifest: what a finished store says of itself, written last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dsprune.errors import UserError
from dsprune.pure.store.spec import StoreSpec, Strict

__all__ = ["HEADS", "MANIFEST", "FileEntry", "StoreManifest", "check_origin", "read_manifest", "shard_name"]

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
