"""The tags of a checkpoint folder: which are whole, which is the newest, and how one goes.

    checkpoints/latest                             the tag to go on from
    checkpoints/global_step40/checkpoint.json      every file of the tag with its size and SHA-256, written last

A tag is whole when `checkpoint.json` is there and every file has its size. `latest` is written after that, and
in one piece: a crash at any moment leaves a whole tag that can be found.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsprune.checkpoint.deepspeed_files import writer_of
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.collectives import barrier, world_comm
from dsprune.ranks.ranks import Ranks, current_ranks
from dsprune.utils.files import replace_text, sha256_of

__all__ = [
    "LATEST",
    "TAG_MANIFEST",
    "begin_tag",
    "check_tag",
    "complete_tag",
    "complete_tags",
    "invalidate_tag",
    "latest_tag",
    "remove_tag",
]

LATEST = "latest"


TAG_MANIFEST = "checkpoint.json"


_OF_A_RANK = re.compile(r"(?:masks|rank)-(\d+)")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class TagManifest(BaseModel):
    """What `checkpoint.json` says.

    Attributes:
        step: `global_steps`, skipped ones included: what tags are ordered by.
        files: every other file of the tag.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    step: int
    files: dict[str, _File]


def begin_tag(folder: Path) -> None:
    """A tag that is written anew is not whole meanwhile. Collective: every rank must call this."""
    if current_ranks().is_first:
        invalidate_tag(folder)
    barrier()


def complete_tag(folder: Path, step: int, *, latest: bool) -> None:
    """Say that a tag is whole, and that it is the newest. Collective: every rank must call this."""
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


def _writer(name: str) -> int:
    """The rank that wrote a file, which need not have reached the disks of others."""
    match = _OF_A_RANK.search(name)
    return int(match[1]) if match else writer_of(name)


def check_tag(folder: Path) -> None:
    """Every file is what it was; a tag that has no manifest is not checked.

    Collective: every rank must call this, and reads its part of the files.

    Raises:
        UserError: a file is missing, truncated or changed.
    """
    ranks = current_ranks()
    on_every_rank(ranks, lambda: _check_files(folder, ranks))


def _check_files(folder: Path, ranks: Ranks) -> None:
    if not (folder / TAG_MANIFEST).is_file():
        return
    manifest = _read(folder)
    for name in sorted(manifest.files)[ranks.rank :: ranks.world_size]:
        path, file = folder / name, manifest.files[name]
        if not path.is_file():
            raise UserError(f"{path}: missing, though {TAG_MANIFEST} lists it: use another checkpoint")
        if path.stat().st_size != file.size or sha256_of(path) != file.sha256:
            raise UserError(
                f"{path}: damaged, its SHA-256 is not the one in {TAG_MANIFEST}: use another checkpoint"
            )


def _read(folder: Path) -> TagManifest:
    path = folder / TAG_MANIFEST
    try:
        return TagManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path}: not a manifest of format 1 ({reason}): use another checkpoint") from None


def latest_tag(checkpoints: Path) -> str | None:
    """What `latest` says; None where there is none."""
    path = checkpoints / LATEST
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def complete_tags(checkpoints: Path) -> list[Path]:
    """The folders of the tags that are whole, the newest first; only sizes are looked at."""
    tags = sorted(_whole(checkpoints), reverse=True)
    return [folder for _, folder in tags]


def _whole(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    for path in checkpoints.glob(f"*/{TAG_MANIFEST}"):
        try:
            manifest = _read(path.parent)
            whole = all((path.parent / n).stat().st_size == f.size for n, f in manifest.files.items())
        except (UserError, OSError):
            continue
        if whole:
            yield manifest.step, path.parent


def invalidate_tag(folder: Path) -> None:
    """From now on the tag is not whole."""
    (folder / TAG_MANIFEST).unlink(missing_ok=True)


def remove_tag(folder: Path) -> None:
    """Remove a tag."""
    invalidate_tag(folder)
    shutil.rmtree(folder)
