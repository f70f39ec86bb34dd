"""Masks on disk: one safetensors file a rank, and a manifest that is written last.

    folder/masks-00000-of-00004.safetensors   packed bits by tensor name, of the slices that rank 0 owned
    ...
    folder/dsprune.json                       which slice lies where, checksums, clock, timetable, digest

Slices are named by tensor and flat index range, so any number of ranks reads what any other number wrote. A
folder without its manifest holds no masks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.errors import UserError
from dsprune.pure.files import replace_file, replace_text, sha256_of
from dsprune.pure.masks.bits import num_bytes, pack, unpack
from dsprune.pure.recipe import Pruning
from dsprune.pure.shard import Shard

__all__ = ["MANIFEST", "MaskManifest", "read_manifest", "read_masks", "write_masks"]

MANIFEST = "dsprune.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorEntry(_Strict):
    """One pruned tensor.

    Attributes:
        shape: full shape.
        sparsity: a target of its own, if it has one.
        num_pruned: how many weights are pruned.
        begun_with: how many were before the first event.
    """

    shape: tuple[int, ...]
    sparsity: float | None
    num_pruned: int
    begun_with: int = 0


class FileEntry(_Strict):
    """One rank's file; `slices` gives start and length of each tensor's slice."""

    file: str
    sha256: str
    slices: dict[str, tuple[int, int]]


class MaskManifest(_Strict):
    """What `dsprune.json` says.

    Attributes:
        clock: number of optimizer steps behind these masks.
        timetable: the run's timetable, as `Timetable.to_dict` gives it.
        pruning: the recipe's section.
        digest: of the whole masks, whoever owns what.
        tensors: every pruned tensor, in the global order.
    """

    format: Literal[1] = 1
    clock: int
    timetable: dict[str, Any]
    pruning: Pruning
    digest: int
    tensors: dict[str, TensorEntry]
    files: tuple[FileEntry, ...]


def write_masks(
    folder: Path,
    masks: MaskSet,
    comm: Comm,
    *,
    clock: int,
    timetable: dict[str, Any],
    pruning: Pruning,
    begun_with: Sequence[int] = (),
) -> None:
    """Write this rank's masks, then on rank 0 the manifest. Collective: every rank of `comm` must call this.

    Args:
        folder: made if it is not there.
        masks: this rank's.
        comm: the ranks that share the masks.
        clock: see `MaskManifest`.
        timetable: see `MaskManifest`.
        pruning: see `MaskManifest`.
        begun_with: see `TensorEntry`, of each tensor; empty for a run that began dense.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = _write_shard(folder / f"masks-{comm.rank:05d}-of-{comm.size:05d}.safetensors", masks)
    entries = _gather(entry, comm)  # also: no manifest before every rank's file is in place
    counts, digest = masks.counts(comm), masks.digest(comm)
    if comm.rank == 0:
        tensors = {
            shard.tensor.name: TensorEntry(
                shape=shard.tensor.shape,
                sparsity=shard.tensor.sparsity,
                num_pruned=count,
                begun_with=begun,
            )
            for shard, count, begun in zip(masks.shards, counts, begun_with or [0] * len(counts), strict=True)
        }
        manifest = MaskManifest(
            clock=clock,
            timetable=timetable,
            pruning=pruning,
            digest=digest,
            tensors=tensors,
            files=tuple(entries),
        )
        replace_text(folder / MANIFEST, manifest.model_dump_json(indent=1))


def _write_shard(path: Path, masks: MaskSet) -> FileEntry:
    owned = [(s, bits) for s, bits in zip(masks.shards, masks.bits, strict=True) if s.numel]
    replace_file(path, lambda temporary: save_file({s.tensor.name: b.cpu() for s, b in owned}, temporary))
    slices = {shard.tensor.name: (shard.start, shard.numel) for shard, _ in owned}
    return FileEntry(file=path.name, sha256=sha256_of(path), slices=slices)


def _gather(entry: FileEntry, comm: Comm) -> list[FileEntry]:
    if comm.size == 1:
        return [entry]
    entries: list[FileEntry | None] = [None] * comm.size
    dist.all_gather_object(entries, entry, group=comm.group)
    return [entry for entry in entries if entry is not None]


def read_manifest(folder: Path) -> MaskManifest:
    """Read and check `dsprune.json`.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST}, so no masks: give a folder that dsprune wrote")
    try:
        return MaskManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not text"
        raise UserError(f"{path}: not a manifest of format 1 ({reason}): use another checkpoint") from error


def read_masks(folder: Path, manifest: MaskManifest, shards: Sequence[Shard]) -> list[Tensor]:
    """Read the bits of `shards`, whoever wrote them; only the files that hold some of them are opened.

    Raises:
        UserError: the masks are of other tensors, or a file is missing, damaged or incomplete.
    """
    _check_tensors(folder, manifest, shards)
    kept = [torch.zeros(shard.numel, dtype=torch.bool) for shard in shards]
    found: list[list[tuple[int, int]]] = [[] for _ in shards]
    for entry in manifest.files:
        wanted = [i for i, shard in enumerate(shards) if _overlap(shard, entry) is not None]
        bits = _read_file(folder / entry.file, entry) if wanted else {}
        for i in wanted:
            name = shards[i].tensor.name
            start, numel = entry.slices[name]
            low, high = _overlap(shards[i], entry) or (0, 0)
            piece = unpack(bits[name], numel)[low - start : high - start]
            kept[i][low - shards[i].start : high - shards[i].start] = piece
            found[i].append((low, high))
    for shard, ranges in zip(shards, found, strict=True):
        if (count := _covered(ranges)) != shard.numel:
            raise UserError(
                f"{folder / MANIFEST}: {shard.tensor.name} has {count:,} of {shard.numel:,} bits: "
                f"use another checkpoint"
            )
    return [pack(row) for row in kept]


def _covered(ranges: Sequence[tuple[int, int]]) -> int:
    """Number of places in the union of some ranges."""
    count = end = 0
    for low, high in sorted(ranges):
        count += max(0, high - max(low, end))
        end = max(end, high)
    return count


def _check_tensors(folder: Path, manifest: MaskManifest, shards: Sequence[Shard]) -> None:
    ours = {shard.tensor.name: shard.tensor.shape for shard in shards}
    theirs = {name: entry.shape for name, entry in manifest.tensors.items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{folder / MANIFEST}: {name} has shape {theirs.get(name)} there and {ours.get(name)} here: "
                f"the masks are of another model, or pruning.include or exclude changed"
            )


def _overlap(shard: Shard, entry: FileEntry) -> tuple[int, int] | None:
    """Flat index range that a shard and a file have in common."""
    start, numel = entry.slices.get(shard.tensor.name, (0, 0))
    low, high = max(shard.start, start), min(shard.start + shard.numel, start + numel)
    return (low, high) if low < high else None


def _read_file(path: Path, entry: FileEntry) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"{path}: missing, though {MANIFEST} lists it: copy it too, or use another checkpoint"
        )
    if sha256_of(path) != entry.sha256:
        raise UserError(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}: use another checkpoint")
    try:
        bits = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}): use another checkpoint") from error
    for name, (_, numel) in entry.slices.items():
        if name not in bits or bits[name].dtype != torch.uint8 or bits[name].shape != (num_bytes(numel),):
            raise UserError(
                f"{path}: does not hold the {numel:,} bits of {name} that {MANIFEST} lists: "
                f"use another checkpoint"
            )
    return bits
