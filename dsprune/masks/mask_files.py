"""Masks on disk: one safetensors file per rank, and a manifest that is written last.

    folder/masks-00000-of-00004.safetensors   packed masks by tensor name, of the slices that rank 0 owned, and the
                                              marks of regrown weights by "regrown/tensor"
    ...
    folder/dsprune.json                       checksum and slices of each file, step, timetable, digest

In a checkpoint, the accumulators of the pruning method are beside them: see `dsprune.masks.accumulator_files`.

A slice is identified by its tensor and flat index range, so the number of ranks may differ between writing and
reading. A folder without a manifest holds no masks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.accumulator_files import declared_dtypes, write_accumulators
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.bits import num_bytes, pack, unpack
from dsprune.masks.manifest import MANIFEST, FileEntry, MaskManifest, TensorEntry, UpdateEntry
from dsprune.masks.mask_set import MaskSet
from dsprune.masks.slice_files import check_exists, read_overlaps, write_slices
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Pruning
from dsprune.schedule import Timetable
from dsprune.utils.files import replace_text

__all__ = ["read_complete_masks", "read_marked_masks", "read_masks", "write_masks"]

REGROWN = "regrown/"
"""Prefix of the name of a tensor for the marks of its regrown weights."""


def write_masks(
    folder: Path,
    masks: MaskSet,
    comm: Comm,
    *,
    step: int,
    timetable: Timetable,
    pruning: Pruning,
    initial_pruned: Sequence[int] = (),
    updates: Sequence[UpdateEntry] = (),
    accumulators: AccumulatorSet | None = None,
) -> None:
    """Write this rank's masks, then on rank 0 the manifest. Collective: every rank of `comm` must call this.

    Args:
        folder: folder to write to, which is created if it is missing.
        masks: this rank's masks.
        comm: the ranks over which the masks are sharded.
        step: number of applied optimizer steps.
        timetable: the run's timetable.
        pruning: the pruning section, for scope, pattern and target.
        initial_pruned: zeros of each tensor before the first mask update; empty for a run that started dense.
        updates: the mask updates so far.
        accumulators: the method's accumulators, for a checkpoint; None for a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"masks-{comm.rank:05d}-of-{comm.size:05d}.safetensors"
    entry = write_slices(path, masks.shards, _entries(masks))
    kept = AccumulatorSet((), ()) if accumulators is None else accumulators
    records = [entry] if (more := write_accumulators(folder, kept, comm)) is None else [entry, more]
    # Gathered, so that every rank's files are complete before the manifest; as text, which is half the size.
    everyone = comm.gather_objects([record.model_dump_json(exclude_none=True) for record in records])
    counts, regrown, digest = masks.counts(comm), masks.counts_regrown(comm), masks.digest(comm)
    if everyone is not None:
        initial = initial_pruned or [0] * len(counts)
        files = [FileEntry.model_validate_json(text) for texts in everyone for text in texts]
        manifest = MaskManifest(
            step=step,
            timetable=timetable,
            scope=pruning.scope,
            pattern=pruning.pattern,
            digest=digest,
            regrows=bool(masks.regrown),
            updates=tuple(updates),
            tensors={
                shard.tensor.name: _entry(shard.tensor, pruning.sparsity, *numbers)
                for shard, *numbers in zip(masks.shards, counts, initial, regrown, strict=True)
            },
            files=tuple(file for file in files if file.file.startswith("masks-")),
            accumulators=declared_dtypes(kept),
            accumulator_files=tuple(file for file in files if file.file.startswith("accumulators-")),
        )
        replace_text(folder / MANIFEST, manifest.to_json())


def _entry(tensor: PrunableTensor, target: float, count: int, initial: int, regrown: int) -> TensorEntry:
    return TensorEntry(
        shape=tensor.shape,
        target=target if tensor.sparsity is None else tensor.sparsity,
        num_pruned=count,
        initial_pruned=initial,
        inputs_first=tensor.inputs_first,
        num_regrown=regrown,
    )


def _entries(masks: MaskSet) -> dict[str, Tensor]:
    """Return the entries of this rank's file, by name."""
    owned = [place for place, shard in enumerate(masks.shards) if shard.numel]
    names = {place: masks.shards[place].tensor.name for place in owned}
    marks = {REGROWN + names[place]: masks.regrown[place] for place in owned} if masks.regrown else {}
    return {names[place]: masks.bits[place] for place in owned} | marks


def read_complete_masks(folder: Path, manifest: MaskManifest) -> MaskSet:
    """Read the complete masks from the files of all ranks.

    Raises:
        UserError: a file is missing, damaged or incomplete.
    """
    tensors = [
        PrunableTensor(name, entry.shape, entry.target, entry.inputs_first)
        for name, entry in manifest.tensors.items()
    ]
    _check_sizes(folder, manifest, tensors)
    masks = MaskSet([Shard(tensor, 0, tensor.numel) for tensor in tensors], regrows=manifest.regrows)
    masks.replace(*read_marked_masks(folder, manifest, masks.shards))
    if masks.digest(Comm()) != manifest.digest:
        raise UserError(f"{folder}: the masks do not have the digest in {MANIFEST}: use another checkpoint")
    return masks


def _check_sizes(folder: Path, manifest: MaskManifest, tensors: Sequence[PrunableTensor]) -> None:
    """Check that the files are large enough for the masks, before memory is allocated for them."""
    paths = [folder / entry.file for entry in manifest.files]
    for path in paths:
        check_exists(path)
    size = sum(path.stat().st_size for path in paths)
    if (needed := sum(num_bytes(tensor.numel) for tensor in tensors)) > size:
        raise UserError(
            f"{folder / MANIFEST}: lists tensors whose masks have {needed:,} bytes, and the files have {size:,}: "
            f"use another checkpoint"
        )


def read_masks(folder: Path, manifest: MaskManifest, shards: Sequence[Shard]) -> list[Tensor]:
    """Return the packed masks of `shards`, see `read_marked_masks`."""
    return read_marked_masks(folder, manifest, shards)[0]


def read_marked_masks(
    folder: Path, manifest: MaskManifest, shards: Sequence[Shard]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the packed masks of `shards`, and the marks of regrown weights if the files have them.

    Only files that hold a part of the shards are read. The shards may differ from those that were written.

    Raises:
        UserError: the masks are of other tensors, or a file is missing, damaged or incomplete.
    """
    _check_tensors(folder, manifest, shards)
    prefixes = ("", REGROWN) if manifest.regrows else ("",)
    found = [[torch.zeros(shard.numel, dtype=torch.bool) for shard in shards] for _ in prefixes]

    def content(name: str, numel: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {prefix + name: (torch.uint8, (num_bytes(numel),)) for prefix in prefixes}

    for overlap in read_overlaps(folder, manifest.files, shards, content, "bits"):
        name = shards[overlap.index].tensor.name
        for prefix, rows in zip(prefixes, found, strict=True):
            rows[overlap.index][overlap.here] = unpack(overlap.entries[prefix + name], overlap.numel)[
                overlap.there
            ]
    kept, *marks = [[pack(row) for row in rows] for rows in found]
    return kept, marks[0] if marks else []


def _check_tensors(folder: Path, manifest: MaskManifest, shards: Sequence[Shard]) -> None:
    ours = {shard.tensor.name: shard.tensor.shape for shard in shards}
    theirs = {name: entry.shape for name, entry in manifest.tensors.items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{folder / MANIFEST}: {name} has shape {theirs.get(name)} there and {ours.get(name)} here: "
                f"the masks are of another model, or pruning.include or exclude changed"
            )
