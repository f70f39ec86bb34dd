"""Accumulators on disk: one safetensors file per rank beside the masks, which the masks' manifest lists.

folder/accumulators-00000-of-00004.safetensors   values by "accumulator/tensor", of the slices that rank 0 owned
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from dsprune.errors import UserError
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.manifest import MANIFEST, FileEntry, MaskManifest
from dsprune.masks.slice_files import read_pieces, write_slices
from dsprune.methods.method import Accumulator
from dsprune.ranks.collectives import Comm

__all__ = ["declared_dtypes", "read_accumulators", "write_accumulators"]


def declared_dtypes(accumulators: AccumulatorSet) -> dict[str, str]:
    """Return the number format of each accumulator by name, as a manifest lists them."""
    return {kept.name: _dtype_name(kept) for kept in accumulators.declared}


def write_accumulators(folder: Path, accumulators: AccumulatorSet, comm: Comm) -> FileEntry | None:
    """Write this rank's file, and return its record; None if there are no accumulators."""
    if not accumulators.declared:
        return None
    entries = {
        f"{name}/{shard.tensor.name}": value
        for shard, row in zip(accumulators.shards, accumulators.values, strict=True)
        for name, value in row.items()
        if shard.numel
    }
    path = folder / f"accumulators-{comm.rank:05d}-of-{comm.size:05d}.safetensors"
    return write_slices(path, accumulators.shards, entries)


def read_accumulators(folder: Path, manifest: MaskManifest, accumulators: AccumulatorSet) -> None:
    """Set this rank's values, from only those files that hold a part of them.

    Raises:
        UserError: the method of the checkpoint kept other accumulators, or a file is missing, damaged or incomplete.
    """
    ours = declared_dtypes(accumulators)
    if manifest.accumulators != ours:
        raise UserError(
            f"{folder / MANIFEST}: holds {_listed(manifest.accumulators)}, and pruning.method keeps {_listed(ours)}: "
            f"resume with the method that it was written with"
        )
    if not ours:
        return

    def content(name: str, numel: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {f"{kept.name}/{name}": (kept.dtype, kept.shape(numel)) for kept in accumulators.declared}

    for piece in read_pieces(
        folder, manifest.accumulator_files, accumulators.shards, content, "accumulators"
    ):
        tensor = accumulators.shards[piece.index].tensor
        for name, value in accumulators.values[piece.index].items():
            value[piece.here].copy_(piece.entries[f"{name}/{tensor.name}"][piece.there])


def _dtype_name(kept: Accumulator) -> str:
    name = str(kept.dtype).removeprefix("torch.")
    return name if kept.block == 1 else f"{name}, products in blocks of {kept.block}"


def _listed(accumulators: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in accumulators.items()) or "no accumulators"
