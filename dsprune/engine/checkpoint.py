"""Masks in a checkpoint: written before DeepSpeed's own files are made known, checked when they come back."""

import json
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from dsprune.distributed.masks.files import MANIFEST, MaskManifest, read_manifest, read_masks, write_masks
from dsprune.distributed.ranks import Ranks
from dsprune.distributed.together import on_every_rank
from dsprune.engine.pruner import Pruner
from dsprune.errors import UserError

__all__ = ["load_masks", "save_masks"]


def save_masks(folder: Path, pruner: Pruner, clock: int) -> None:
    """Write the masks into the folder of a tag, or of a model. Collective: every rank must call this."""
    # Where every rank holds a replica, rank 0 alone writes.
    if pruner.layout.group is not None or dist.get_rank() == 0:
        write_masks(
            folder,
            pruner.masks,
            pruner.comm,
            clock=clock,
            timetable=pruner.timetable.to_dict(),
            pruning=pruner.pruning,
            begun_with=pruner.begun_with,
        )
    dist.barrier()


def load_masks(folder: Path, pruner: Pruner, clock: int) -> None:
    """Give the pruner the masks of a checkpoint that DeepSpeed has just loaded.

    Collective: every rank must call this.

    Raises:
        UserError: the folder has no masks, or they are not those of these weights and this timetable.
    """
    ranks = Ranks(dist.get_rank(), 0, dist.get_world_size())
    manifest, bits = on_every_rank(ranks, lambda: _read(folder, pruner, clock))
    pruner.restore(bits)
    pruner.begun_with = [entry.begun_with for entry in manifest.tensors.values()]
    if pruner.masks.digest(pruner.comm) != manifest.digest:
        raise UserError(f"{folder}: the masks do not have the digest in the manifest: use another checkpoint")
    on_every_rank(ranks, lambda: _audit(folder, pruner))


def _read(folder: Path, pruner: Pruner, clock: int) -> tuple[MaskManifest, list[Tensor]]:
    """The manifest and this rank's bits."""
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder}: no {MANIFEST}, so no masks: copy it and the masks too, or make masks of the weights' exact "
            f"zeros with --masks-from zeros"
        )
    manifest = read_manifest(folder)
    ours = json.loads(json.dumps(pruner.timetable.to_dict()))
    if differing := [field for field in ours if ours[field] != manifest.timetable.get(field)]:
        field = differing[0]
        raise UserError(
            f"{folder}: its timetable has {field}={manifest.timetable.get(field)}, this run's has "
            f"{ours[field]}: resume with the recipe that it was written with"
        )
    if manifest.clock != clock:
        raise UserError(
            f"{folder}: masks of step {manifest.clock}, weights of step {clock}: use another checkpoint"
        )
    return manifest, read_masks(folder, manifest, pruner.layout.shards)


def _audit(folder: Path, pruner: Pruner) -> None:
    if findings := pruner.audit():
        raise UserError(
            f"{folder}: {findings[0]}: the masks are not those of these weights: use another checkpoint"
        )
