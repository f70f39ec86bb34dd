"""Lists of files with size and SHA-256: of a tag, of a compact model, and of a model folder, `dsprune-files.json`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dsprune.errors import UserError
from dsprune.utils.files import flush, replace_text, sha256_of
from dsprune.utils.records import Count, FileName, Record, read_record

__all__ = [
    "MODEL_LIST",
    "FileList",
    "FileRecord",
    "check_file",
    "is_listed",
    "list_model_folder",
    "read_model_list",
    "record_files",
]

MODEL_LIST = "dsprune-files.json"


class FileRecord(Record):
    """Size in bytes and SHA-256 of a file."""

    size: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileList(Record):
    """The content of `dsprune-files.json`: the files of a model, except the list itself and the masks.

    If many ranks write a tag, each lists its own files in this format.
    """

    format: Literal[1] = 1
    files: dict[FileName, FileRecord]


def record_files(paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Flush the paths that are files, without hidden ones, to the disk, and return their records by name."""
    files = sorted(path for path in paths if path.is_file() and not path.name.startswith("."))
    for path in files:
        flush(path)
    return {path.name: FileRecord(size=path.stat().st_size, sha256=sha256_of(path)) for path in files}


def check_file(path: Path, record: FileRecord, listed_in: str, way_out: str) -> None:
    """Compare a file with its record.

    Args:
        path: the file.
        record: its record.
        listed_in: name of the list, for messages.
        way_out: what the user can do if the file is damaged.

    Raises:
        UserError: it is missing, truncated or changed.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, though {listed_in} lists it: {way_out}")
    if path.stat().st_size != record.size or sha256_of(path) != record.sha256:
        raise UserError(f"{path}: damaged, its SHA-256 is not the one in {listed_in}: {way_out}")


def is_listed(path: Path) -> bool:
    """Return whether the list of a model folder covers a file.

    `dsprune.json` has the checksums of the masks, and users may edit the card.
    """
    others = (MODEL_LIST, "README.md")
    return path.is_file() and path.name not in others and not path.name.startswith((".", "masks-"))


def list_model_folder(folder: Path) -> None:
    """Write the list of a model folder whose other files are complete."""
    files = record_files(path for path in folder.iterdir() if is_listed(path))
    replace_text(folder / MODEL_LIST, FileList(files=files).model_dump_json(indent=1))


def read_model_list(folder: Path) -> Mapping[str, FileRecord]:
    """Return the records of a model folder by file name; empty if it has no list.

    Raises:
        UserError: the list is damaged.
    """
    path = folder / MODEL_LIST
    if not path.exists():
        return {}
    return read_record(path, FileList, "a list of files of format 1", "use another copy of the model").files
