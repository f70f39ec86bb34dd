"""The files of a tag: its manifest, the separate lists of many ranks, and the check of sizes and checksums."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dsprune.checkpoint.file_list import FileList, FileRecord, check_file
from dsprune.utils.records import Count, FileName, Record, read_record

__all__ = [
    "TAG_MANIFEST", "TagManifest", "check_files", "files_of", "is_list", "list_name",
    "read_tag_list", "read_tag_manifest",
]  # fmt: skip

TAG_MANIFEST = "checkpoint.json"

WAY_OUT = "use another checkpoint"


class TagManifest(Record):
    """The content of `checkpoint.json`.

    Attributes:
        format: version of this format.
        step: `global_steps`, including skipped steps; orders the tags.
        files: every other file of the tag.
        lists: number of ranks that list their files separately; 0 if `files` has all.
    """

    format: Literal[1] = 1
    step: Count
    files: dict[FileName, FileRecord]
    lists: Annotated[int, Field(ge=0, le=10**6)] = 0


def check_files(folder: Path, part: int = 0, num_parts: int = 1) -> int | None:
    """Check a part of the files of a tag against its manifest.

    Returns:
        The number of these files; None if there is no manifest.

    Raises:
        UserError: a file is missing, truncated or changed.
    """
    if (files := read_tag_list(folder, part, num_parts)) is None:
        return None
    for name, record in files.items():
        check_file(folder / name, record, TAG_MANIFEST, WAY_OUT)
    return len(files)


def read_tag_list(folder: Path, part: int = 0, num_parts: int = 1) -> dict[str, FileRecord] | None:
    """Return the records of a part of a tag's files by name; None if it has no manifest.

    Raises:
        UserError: the manifest or a list is missing or damaged.
    """
    if not (folder / TAG_MANIFEST).exists():
        return None
    return files_of(folder, read_tag_manifest(folder), part, num_parts)


def files_of(folder: Path, manifest: TagManifest, part: int = 0, num_parts: int = 1) -> dict[str, FileRecord]:
    """Return the records of a part of the files, from the manifest or the separate lists."""
    if not manifest.lists:
        return {name: manifest.files[name] for name in sorted(manifest.files)[part::num_parts]}
    paths = [folder / list_name(rank, manifest.lists) for rank in range(part, manifest.lists, num_parts)]
    lists = [read_record(path, FileList, "a list of files of format 1", WAY_OUT) for path in paths]
    return {name: record for one in lists for name, record in one.files.items()}


def list_name(rank: int, world_size: int) -> str:
    """Return the name of a rank's list."""
    return f"files-{rank:05d}-of-{world_size:05d}.json"


def is_list(name: str) -> bool:
    """Return whether a file is the list of a rank."""
    return re.fullmatch(r"files-\d+-of-\d+\.json", name) is not None


def read_tag_manifest(folder: Path) -> TagManifest:
    """Read `checkpoint.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_record(folder / TAG_MANIFEST, TagManifest, "a manifest of format 1", WAY_OUT)
