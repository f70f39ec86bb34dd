"""Masks on disk: one safetensors file per rank, and a manifest that is written last.

    folder/masks-00000-of-00004.safetensors   packed masks by tensor name, of the slices that rank 0 owned
    ...
    folder/dsprune.json                       the slices of each file, checksums, step, timetable, digest

A slice is identified by its tensor and flat index range, so the number of ranks may differ between writing and
reading. A folder without a manifest holds no masks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.bits import num_bytes, pack, unpack
from dsprune.masks.manifest import MANIFEST, FileEntry, MaskManifest, TensorEntry
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.schedule import Timetable
from dsprune.utils.files import replace_file, replace_text, sha256_of

__all__ = ["read_complete_masks", "read_masks", "write_masks"]


def write_masks(
    folder: Path,
    masks: MaskSet,
    comm: Comm,
    *,
    step: int,
    timetable: Timetable,
    pruning: Pruning,
    initial_pruned: Sequence[int] = (),
) -> None:
    """Write this rank's masks, then on rank 0 the manifest. Collective: every rank of `comm` must call this.

    Args:
        folder: folder to write to, which is created if it is missing.
        masks: this rank's masks.
        comm: the ranks over which the masks are sharded.
        step: number of applied optimizer steps.
        timetable: the run's timetable.
        pruning: the pruning section, for scope and target.
        initial_pruned: zeros of each tensor before the first mask update; empty for a run that started dense.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = _write_shard(folder / f"masks-{comm.rank:05d}-of-{comm.size:05d}.safetensors", masks)
    entries = comm.all_gather_objects(entry)  # so that every rank's file is complete before the manifest
    counts, digest = masks.counts(comm), masks.digest(comm)
    if comm.rank == 0:
        initial = initial_pruned or [0] * len(counts)
        manifest = MaskManifest(
            step=step,
            timetable=timetable,
            scope=pruning.scope,
            digest=digest,
            tensors={
                shard.tensor.name: TensorEntry(
                    shape=shard.tensor.shape,
                    target=pruning.sparsity if shard.tensor.sparsity is None else shard.tensor.sparsity,
                    num_pruned=count,
                    initial_pruned=begun,
                )
                for shard, count, begun in zip(masks.shards, counts, initial, strict=True)
            },
            files=tuple(entries),
        )
        replace_text(folder / MANIFEST, manifest.model_dump_json(indent=1))


def read_complete_masks(folder: Path, manifest: MaskManifest) -> MaskSet:
    """Read the complete masks from the files of all ranks.

    Raises:
        UserError: a file is missing, damaged or incomplete.
    """
    tensors = [PrunableTensor(name, entry.shape, entry.target) for name, entry in manifest.tensors.items()]
    _check_sizes(folder, manifest, tensors)
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in tensors])
    masks.replace(read_masks(folder, manifest, masks.shards))
    if masks.digest(Comm()) != manifest.digest:
        raise UserError(f"{folder}: the masks do not have the digest in {MANIFEST}: use another checkpoint")
    return masks


def _check_sizes(folder: Path, manifest: MaskManifest, tensors: Sequence[PrunableTensor]) -> None:
    """Check that the files have room for the masks, before memory is allocated for them."""
    paths = [folder / entry.file for entry in manifest.files]
    for path in paths:
        _check_exists(path)
    size = sum(path.stat().st_size for path in paths)
    if (needed := sum(num_bytes(tensor.numel) for tensor in tensors)) > size:
        raise UserError(
            f"{folder / MANIFEST}: lists tensors whose masks have {needed:,} bytes, and the files have {size:,}: "
            f"use another checkpoint"
        )


def read_masks(folder: Path, manifest: MaskManifest, shards: Sequence[Shard]) -> list[Tensor]:
    """Return the packed masks of `shards`, from only those files that hold a part of them.

    Args:
        folder: folder of the masks.
        manifest: its manifest.
        shards: the slices to read, which may differ from those that were written.

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


def _write_shard(path: Path, masks: MaskSet) -> FileEntry:
    owned = [(s, bits) for s, bits in zip(masks.shards, masks.bits, strict=True) if s.numel]
    replace_file(path, lambda temporary: save_file({s.tensor.name: b.cpu() for s, b in owned}, temporary))
    slices = {shard.tensor.name: (shard.start, shard.numel) for shard, _ in owned}
    return FileEntry(file=path.name, sha256=sha256_of(path), slices=slices)


def _covered(ranges: Sequence[tuple[int, int]]) -> int:
    """Return the size of the union of some ranges."""
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
    """Return the flat index range that a shard and a file have in common, or None."""
    start, numel = entry.slices.get(shard.tensor.name, (0, 0))
    low, high = max(shard.start, start), min(shard.start + shard.numel, start + numel)
    return (low, high) if low < high else None


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: missing, but {MANIFEST} lists it: copy it too, or use another checkpoint")


def _read_file(path: Path, entry: FileEntry) -> dict[str, Tensor]:
    _check_exists(path)
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
