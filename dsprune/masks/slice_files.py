"""Files of slices, one a rank: read by any number of ranks, since each names its slices of the tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST, FileEntry
from dsprune.model.shard import Shard
from dsprune.utils.files import replace_file, sha256_of

__all__ = ["Content", "Piece", "check_exists", "read_pieces", "write_slices"]

Content = Callable[[str, int], Mapping[str, tuple[torch.dtype, tuple[int, ...]]]]
"""Returns dtype and shape of each entry that a file holds for a slice, given the tensor's name and the number of
weights."""


@dataclass(frozen=True)
class Piece:
    """What a shard and a file have in common.

    Attributes:
        index: of the shard.
        here: its place in the shard.
        there: its place in the file's slice of the tensor.
        numel: number of weights in that slice.
        entries: the content of the file.
    """

    index: int
    here: slice
    there: slice
    numel: int
    entries: Mapping[str, Tensor]


def write_slices(path: Path, shards: Sequence[Shard], entries: Mapping[str, Tensor]) -> FileEntry:
    """Write the file of one rank, and return its record."""
    values = {name: value.cpu() for name, value in entries.items()}
    replace_file(path, lambda temporary: save_file(values, temporary))
    slices = {shard.tensor.name: (shard.start, shard.numel) for shard in shards if shard.numel}
    return FileEntry(file=path.name, sha256=sha256_of(path), slices=slices)


def read_pieces(
    folder: Path, files: Sequence[FileEntry], shards: Sequence[Shard], content: Content, unit: str
) -> Iterator[Piece]:
    """Yield the pieces of `shards`, from only those files that hold a part of them.

    Args:
        folder: folder of the files.
        files: their records.
        shards: the slices to read, which may differ from those that were written.
        content: what a file must hold.
        unit: what a file holds of a weight, for messages.

    Raises:
        UserError: a file is missing, damaged or incomplete.
    """
    found: list[list[tuple[int, int]]] = [[] for _ in shards]
    for entry in files:
        wanted = [i for i, shard in enumerate(shards) if _overlap(shard, entry) is not None]
        entries = _read_file(folder / entry.file, entry, content, unit) if wanted else {}
        for i in wanted:
            start, numel = entry.slices[shards[i].tensor.name]
            low, high = _overlap(shards[i], entry) or (0, 0)
            here, there = (
                slice(low - shards[i].start, high - shards[i].start),
                slice(low - start, high - start),
            )
            yield Piece(i, here, there, numel, entries)
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


def _overlap(shard: Shard, entry: FileEntry) -> tuple[int, int] | None:
    """Return the flat index range that a shard and a file have in common, or None."""
    start, numel = entry.slices.get(shard.tensor.name, (0, 0))
    low, high = max(shard.start, start), min(shard.start + shard.numel, start + numel)
    return (low, high) if low < high else None


def _read_file(path: Path, entry: FileEntry, content: Content, unit: str) -> dict[str, Tensor]:
    check_exists(path)
    if sha256_of(path) != entry.sha256:
        raise UserError(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}: use another checkpoint")
    try:
        entries = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}): use another checkpoint") from error
    for name, (_, numel) in entry.slices.items():
        for key, (dtype, shape) in content(name, numel).items():
            if key not in entries or entries[key].dtype != dtype or entries[key].shape != shape:
                raise UserError(
                    f"{path}: does not hold the {numel:,} {unit} of {name} that {MANIFEST} lists: "
                    f"use another checkpoint"
                )
    return entries
