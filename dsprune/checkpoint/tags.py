"""The tags of a checkpoint folder: how they are written, found, checked and removed.

    checkpoints/latest                             the name of the newest tag
    checkpoints/global_step40/checkpoint.json      size and SHA-256 of every other file of the tag, written last

A tag is complete when `checkpoint.json` exists and every file has its size. `latest` is written after
`checkpoint.json`, and atomically, so a crash at any moment leaves a complete tag that can be found.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsprune.checkpoint.deepspeed_files import writer_of
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.collectives import barrier, world_comm
from dsprune.ranks.ranks import Ranks, current_ranks
from dsprune.utils.files import replace_text, sha256_of

__all__ = [
    "TAG_MANIFEST",
    "begin_tag",
    "check_tag",
    "commit_tag",
    "complete_tags",
    "invalidate_tag",
    "latest_tag",
    "remove_tag",
    "tag_name",
]

LATEST = "latest"

TAG_MANIFEST = "checkpoint.json"

_FILE_OF_RANK = re.compile(r"(?:masks|rank)-(\d+)")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class TagManifest(BaseModel):
    """The content of `checkpoint.json`.

    Attributes:
        format: version of this format.
        step: `global_steps`, skipped steps included, by which tags are ordered.
        files: every other file of the tag.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    step: int
    files: dict[str, _File]


def tag_name(tag: Any) -> str:
    """Return the name of a tag's folder, of any value that DeepSpeed takes for a tag."""
    return str(tag)


def begin_tag(folder: Path) -> None:
    """Make a tag incomplete before its files are written. Collective: every rank must call this."""
    if current_ranks().is_first:
        invalidate_tag(folder)
    barrier()


def commit_tag(folder: Path, step: int, *, latest: bool) -> None:
    """Make a tag complete by writing its manifest. Collective: every rank must call this.

    Args:
        folder: the tag's folder, with all other files in place.
        step: `global_steps`.
        latest: whether the tag becomes the latest.
    """
    ranks = current_ranks()
    mine = {
        path.name: _File(size=path.stat().st_size, sha256=sha256_of(path))
        for path in folder.iterdir()
        if path.is_file() and _writer(path.name) % ranks.world_size == ranks.rank
    }
    everyone = world_comm(ranks).all_gather_objects(mine)
    if ranks.is_first:
        files = {name: file for files in everyone for name, file in sorted(files.items())}
        replace_text(folder / TAG_MANIFEST, TagManifest(step=step, files=files).model_dump_json(indent=1))
        if latest:
            replace_text(folder.parent / LATEST, folder.name)
    barrier()


def check_tag(folder: Path) -> None:
    """Check every file against the manifest; a tag without a manifest is not checked.

    Collective: every rank must call this. Each rank reads its part of the files.

    Raises:
        UserError: a file is missing, truncated or changed.
    """
    ranks = current_ranks()
    on_every_rank(ranks, lambda: _check_files(folder, ranks))


def latest_tag(checkpoints: Path) -> str | None:
    """Return the name in `latest`; None if there is no such file."""
    path = checkpoints / LATEST
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def complete_tags(checkpoints: Path) -> list[Path]:
    """Return the folders of the complete tags, the newest first. Checksums are not compared."""
    tags = sorted(_find_complete(checkpoints), reverse=True)
    return [folder for _, folder in tags]


def invalidate_tag(folder: Path) -> None:
    """Remove the manifest of a tag, which makes the tag incomplete."""
    (folder / TAG_MANIFEST).unlink(missing_ok=True)


def remove_tag(folder: Path) -> None:
    """Remove a tag."""
    invalidate_tag(folder)
    shutil.rmtree(folder)


def _writer(name: str) -> int:
    """Return the rank that wrote a file. Other hosts may not see the file yet."""
    match = _FILE_OF_RANK.search(name)
    return int(match[1]) if match else writer_of(name)


def _check_files(folder: Path, ranks: Ranks) -> None:
    if not (folder / TAG_MANIFEST).is_file():
        return
    manifest = _read_manifest(folder)
    for name in sorted(manifest.files)[ranks.rank :: ranks.world_size]:
        path, file = folder / name, manifest.files[name]
        if not path.is_file():
            raise UserError(f"{path}: missing, though {TAG_MANIFEST} lists it: use another checkpoint")
        if path.stat().st_size != file.size or sha256_of(path) != file.sha256:
            raise UserError(
                f"{path}: damaged, its SHA-256 is not the one in {TAG_MANIFEST}: use another checkpoint"
            )


def _find_complete(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    """Yield step and folder of each complete tag."""
    for path in checkpoints.glob(f"*/{TAG_MANIFEST}"):
        folder = path.parent
        try:
            manifest = _read_manifest(folder)
            sizes = {name: (folder / name).stat().st_size for name in manifest.files}
        except (UserError, OSError):
            continue
        if all(sizes[name] == file.size for name, file in manifest.files.items()):
            yield manifest.step, folder


def _read_manifest(folder: Path) -> TagManifest:
    path = folder / TAG_MANIFEST
    try:
        return TagManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path}: not a manifest of format 1 ({reason}): use another checkpoint") from None
