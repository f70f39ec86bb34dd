"""Files of slices, one per rank. Any number of ranks can read them, because the manifest lists the slices of each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST, FileEntry
from dsprune.model.shard import Shard, parts_of
from dsprune.utils.files import replace_file, sha256_of

__all__ = ["Content", "Overlap", "check_exists", "entry_of", "read_overlaps", "write_slices"]

Content = Callable[[str, int], Mapping[str, tuple[torch.dtype, tuple[int, ...]]]]
"""Returns dtype and shape of each entry of a file for a slice, given the tensor's name and the number of weights."""


@dataclass(frozen=True)
class Overlap:
    """The overlap of a shard and a file.

    Attributes:
        index: number of the shard.
        here: place of the overlap in the shard.
        there: place of the overlap in the file's slice of the tensor.
        numel: number of weights in that slice.
        entries: the content of the file.
    """

    index: int
    here: slice
    there: slice
    numel: int
    entries: Mapping[str, Tensor]


def write_slices(
    path: Path, shards: Sequence[Shard], entries: Mapping[str, Tensor], *, listed: bool = False
) -> FileEntry:
    """Write the file of one rank, and return its record.

    Args:
        path: the file, whose name contains rank and number of ranks.
        shards: this rank's shards.
        entries: the content, by name.
        listed: whether to list the slices even if they are equal parts.
    """
    values = {name: value.cpu() for name, value in entries.items()}
    replace_file(path, lambda temporary: save_file(values, temporary))
    return entry_of(path, shards, listed=listed)


def entry_of(path: Path, shards: Sequence[Shard], *, listed: bool = False) -> FileEntry:
    """Return the record of a file. Slices that are equal parts are left out unless `listed`."""
    entry = FileEntry(file=path.name, sha256=sha256_of(path))
    if not listed and all(entry.slice_of(shard.tensor) == (shard.start, shard.numel) for shard in shards):
        return entry
    slices = {shard.tensor.name: (shard.start, shard.numel) for shard in shards if shard.numel}
    return entry.model_copy(update={"slices": slices})


def read_overlaps(
    folder: Path, files: Sequence[FileEntry], shards: Sequence[Shard], content: Content, unit: str
) -> Iterator[Overlap]:
    """Yield the overlaps of shards and files; only files with an overlap are read.

    Args:
        folder: folder of the files.
        files: their records.
        shards: the slices to read, which may differ from those that were written.
        content: returns the entries that a file must hold.
        unit: noun for the value of a weight in a file, for messages.

    Raises:
        UserError: a file is missing, damaged or incomplete.
    """
    found: list[list[tuple[int, int]]] = [[] for _ in shards]
    near = _find_parts(files, shards)
    for entry in files:
        places = range(len(shards)) if entry.part is None else near.get(entry.part, ())
        common = {i: both for i in places if (both := _overlap(shards[i], entry))}
        expected = {shards[i].tensor.name: entry.slice_of(shards[i].tensor)[1] for i in common}
        entries = _read_file(folder / entry.file, entry, expected, content, unit) if common else {}
        for i, (low, high) in common.items():
            start, numel = entry.slice_of(shards[i].tensor)
            here = slice(low - shards[i].start, high - shards[i].start)
            yield Overlap(i, here, slice(low - start, high - start), numel, entries)
            found[i].append((low, high))
    for shard, ranges in zip(shards, found, strict=True):
        if (count := _covered(ranges)) != shard.numel:
            raise UserError(
                f"{folder / MANIFEST}: {shard.tensor.name} has {count:,} of {shard.numel:,} {unit}: "
                f"use another checkpoint"
            )


def check_exists(path: Path) -> None:
    """Check that a file that the manifest lists exists."""
    if not path.is_file():
        raise UserError(f"{path}: missing, but {MANIFEST} lists it: copy it too, or use another checkpoint")


def _covered(ranges: Sequence[tuple[int, int]]) -> int:
    """Return the size of the union of some ranges."""
    count = end = 0
    for low, high in sorted(ranges):
        count += max(0, high - max(low, end))
        end = max(end, high)
    return count


def _find_parts(files: Sequence[FileEntry], shards: Sequence[Shard]) -> dict[tuple[int, int], list[int]]:
    """Return the shards that overlap an equal part, so that not every shard is compared with thousands of files."""
    found: dict[tuple[int, int], list[int]] = {}
    for count in {entry.part[1] for entry in files if entry.part is not None}:
        if count > len(files):  # files are missing, which is refused later
            continue
        for i, shard in enumerate(shards):
            for number in parts_of(shard, count):
                found.setdefault((number, count), []).append(i)
    return found


def _overlap(shard: Shard, entry: FileEntry) -> tuple[int, int] | None:
    """Return the overlap of a shard and a file as a flat index range, or None."""
    start, numel = entry.slice_of(shard.tensor)
    low, high = max(shard.start, start), min(shard.start + shard.numel, start + numel)
    return (low, high) if low < high else None


def _read_file(
    path: Path, entry: FileEntry, expected: Mapping[str, int], content: Content, unit: str
) -> dict[str, Tensor]:
    """Read a file, and check that it holds the expected number of weights of each of some tensors."""
    check_exists(path)
    if sha256_of(path) != entry.sha256:
        raise UserError(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}: use another checkpoint")
    try:
        entries = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}): use another checkpoint") from error
    for name, numel in expected.items():
        for key, (dtype, shape) in content(name, numel).items():
            if key not in entries or entries[key].dtype != dtype or entries[key].shape != shape:
                raise UserError(
                    f"{path}: does not hold the {numel:,} {unit} of {name} that {MANIFEST} lists: "
                    f"use another checkpoint"
                )
    return entries
