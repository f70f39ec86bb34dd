"""The tags of a checkpoint folder: how they are written, found, checked and removed.

    checkpoints/latest                             the name of the newest tag
    checkpoints/global_step40/checkpoint.json      size and SHA-256 of every other file of the tag, written last

With more than `LISTED_TOGETHER` ranks, each rank lists the files that it wrote, and no rank gathers all lists:

    checkpoints/global_step40/files-00017-of-04096.json

A tag is complete when `checkpoint.json` exists and every file has its size. `latest` is written after
`checkpoint.json`, and atomically, so a crash at any moment leaves a complete tag that can be found.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsprune.checkpoint.deepspeed_files import WRITTEN, writer_of
from dsprune.checkpoint.file_list import FileList, record_files
from dsprune.checkpoint.tag_files import (
    TAG_MANIFEST,
    TagManifest,
    check_files,
    files_of,
    is_list,
    list_name,
    read_tag_manifest,
)
from dsprune.errors import UserError
from dsprune.ranks.agreement import check_same, on_every_rank
from dsprune.ranks.collectives import barrier, world_comm
from dsprune.ranks.group import current_ranks
from dsprune.utils.files import remove, replace_text
from dsprune.utils.records import read_bytes
from dsprune.utils.text import control_character
from dsprune.zero.pickles import check_pickles

__all__ = [
    "begin_tag",
    "check_tag",
    "commit_tag",
    "complete_tags",
    "find_checkpoints",
    "invalidate_tag",
    "latest_tag",
    "remove_tag",
    "tag_name",
]


LISTED_TOGETHER = 64
"""Up to this number of ranks, `checkpoint.json` lists the files of all ranks."""


_FILE_OF_RANK = re.compile(r"(?:masks|accumulators|rank)-(\d+)")

_WRITTEN = re.compile(rf"{WRITTEN}|(masks|accumulators|rank|files)-\d+-of-\d+\.(safetensors|json)")
"""Files of DeepSpeed and dsprune in a tag, whose names depend on the ZeRO stage and the number of ranks."""

LATEST = "latest"


def begin_tag(folder: Path) -> None:
    """Make a tag incomplete before its files are written. Collective: every rank must call this.

    The files of an earlier save are removed: at another ZeRO stage or on another number of ranks, some of them would
    stay and be read with the new ones. Links are removed, because DeepSpeed would write to their targets.

    Raises:
        UserError: the ranks save into different folders, so that each folder would lack files.
    """
    check_same({"the checkpoint's folder": str(folder.absolute())})
    if current_ranks().is_first:
        invalidate_tag(folder)
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() or _WRITTEN.fullmatch(path.name):
                path.unlink()
    barrier()


def commit_tag(folder: Path, step: int, *, latest: bool) -> None:
    """Complete a tag by writing its manifest, after all its other files; make it the latest if asked.

    Collective: every rank must call this.
    """
    ranks = current_ranks()
    mine = record_files(
        path
        for path in folder.iterdir()
        if _writer(path.name) % ranks.world_size == ranks.rank and not is_list(path.name)
    )
    apart = ranks.world_size > LISTED_TOGETHER
    if apart:
        path = folder / list_name(ranks.rank, ranks.world_size)
        replace_text(path, FileList(files=mine).model_dump_json(indent=1))
    everyone = world_comm().gather_objects({} if apart else mine)  # so that all lists are complete
    if everyone is not None:
        files = {name: file for files in everyone for name, file in sorted(files.items())}
        manifest = TagManifest(step=step, files=files, lists=ranks.world_size if apart else 0)
        replace_text(folder / TAG_MANIFEST, manifest.model_dump_json(indent=1))
        if latest:
            replace_text(folder.parent / LATEST, folder.name)
    barrier()


def check_tag(folder: Path) -> None:
    """Check that a tag exists, that its files agree with the manifest, and that no pickle would run code.

    Collective: every rank must call this. Each rank reads its part of the files. The manifest may be missing.

    Raises:
        UserError: the tag or a file is missing, a file is truncated or changed, or a pickle holds more than values.
    """
    ranks = current_ranks()
    on_every_rank(lambda: _check_exists(folder))
    on_every_rank(lambda: check_files(folder, ranks.rank, ranks.world_size))
    on_every_rank(lambda: check_pickles(folder, ranks.rank, ranks.world_size))


def _check_exists(folder: Path) -> None:
    if not folder.is_dir():
        found = sorted(each.name for each in folder.parent.glob("*/"))
        way_out = f"name one of {', '.join(found)}" if found else "give the folder that holds the tags"
        raise UserError(f"{folder}: no such checkpoint: {way_out}")


def complete_tags(checkpoints: Path) -> list[Path]:
    """Return the folders of the complete tags, the newest first. Checksums are not compared."""
    tags = sorted(_find_complete(checkpoints), reverse=True)
    return [folder for _, folder in tags]


def find_checkpoints(path: Path) -> list[Path]:
    """Return the complete tags at or below a folder, the newest first.

    Runs save them in `checkpoints/`, scripts in any folder, and frameworks in one folder per state.

    Raises:
        UserError: the folder holds several runs, so the newest checkpoint is ambiguous.
    """
    folders = (path.parent, path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/")))
    complete = {tag: step for folder in folders for step, tag in _find_complete(folder)}
    found = {tag: step for tag, step in complete.items() if tag.is_relative_to(path)}
    runs = {tag.parents[1] for tag in found if (tag.parents[1] / "recipe.yaml").exists()}
    if below := sorted(run for run in runs if path in run.parents):
        raise UserError(f"{path}: holds the folders of runs: name one of them, such as {below[0]}")
    return sorted(found, key=lambda tag: (found[tag], tag), reverse=True)


def invalidate_tag(folder: Path) -> None:
    """Remove the manifest of a tag, which makes the tag incomplete. If the tag is a link, remove only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        remove(folder / TAG_MANIFEST)


def remove_tag(folder: Path) -> None:
    """Remove a tag. If it is a link, remove only the link."""
    invalidate_tag(folder)
    remove(folder)


def _writer(name: str) -> int:
    """Return the rank that wrote a file. Other hosts may not see the file yet."""
    match = _FILE_OF_RANK.search(name)
    return int(match[1]) if match else writer_of(name)


def _find_complete(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    """Yield step and folder of each complete tag."""
    for path in checkpoints.glob(f"*/{TAG_MANIFEST}"):
        folder = path.parent
        try:
            manifest = read_tag_manifest(folder)
            files = files_of(folder, manifest)
            sizes = {name: (folder / name).stat().st_size for name in files}
        except (UserError, OSError):
            continue
        if all(sizes[name] == file.size for name, file in files.items()):
            yield manifest.step, folder


def tag_name(tag: Any) -> str:
    """Return the folder name of a tag, which may have any type that DeepSpeed accepts.

    Raises:
        UserError: the name is a path outside of the folder of the tags.
    """
    name = str(tag)
    if not _stays_inside(name):
        raise UserError(
            f"tag: value {name!r}: must be the name of a folder beside {LATEST}, not a path out of it"
        )
    return name


def latest_tag(checkpoints: Path) -> str | None:
    """Return the name in `latest`; None if there is no such file.

    Raises:
        UserError: the file cannot be read, or does not hold the name of a tag.
    """
    path = checkpoints / LATEST
    if not path.exists():
        return None
    way_out = "write the name of a complete checkpoint into it, or remove it"
    name = read_bytes(path, way_out).decode("utf-8", "replace").strip()
    if not _stays_inside(name) or control_character(name) is not None:
        raise UserError(f"{path}: value {name[:100]!r}: not the name of a folder beside it: {way_out}")
    return name


def _stays_inside(name: str) -> bool:
    return name not in ("", ".", "..") and not {"/", "\0"} & {*name}
