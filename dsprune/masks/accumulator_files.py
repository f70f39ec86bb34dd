"""Accumulators on disk: one safetensors file per rank next to the masks, listed in the masks' manifest.

folder/accumulators-00000-of-00004.safetensors   values by "accumulator/tensor", of the slices that rank 0 owned

Sums over the inputs of matrices, "inputs/tensor", are the same on every rank, and only in the file of rank 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.manifest import MANIFEST, FileEntry, MaskManifest
from dsprune.masks.slice_files import read_overlaps, write_slices
from dsprune.methods.method import Accumulator
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm

__all__ = ["declared_dtypes", "read_accumulators", "write_accumulators"]


def declared_dtypes(accumulators: AccumulatorSet) -> dict[str, str]:
    """Return the number format of each accumulator by name, as a manifest lists them."""
    inputs = {} if accumulators.inputs is None else {"inputs": "float64, of matrices"}
    return {kept.name: _dtype_name(kept) for kept in accumulators.declared} | inputs


def write_accumulators(folder: Path, accumulators: AccumulatorSet, comm: Comm) -> FileEntry | None:
    """Write this rank's file, and return its record; None if there are no accumulators."""
    rows = _of_weights(accumulators) + (_of_inputs(accumulators) if comm.rank == 0 else [])
    if not rows:
        return None
    entries = {key: value.clone() for shard, row in rows if shard.numel for key, value in row.items()}
    path = folder / f"accumulators-{comm.rank:05d}-of-{comm.size:05d}.safetensors"
    # Only this rank's file has the sums over inputs, so they are not equal parts.
    return write_slices(path, [shard for shard, _ in rows], entries, listed=accumulators.inputs is not None)


def read_accumulators(folder: Path, manifest: MaskManifest, accumulators: AccumulatorSet) -> None:
    """Read this rank's values, only from the files that hold a part of them.

    Raises:
        UserError: the method of the checkpoint kept other accumulators, or a file is missing, damaged or incomplete.
    """
    ours = declared_dtypes(accumulators)
    if manifest.accumulators != ours:
        raise UserError(
            f"{folder / MANIFEST}: holds {_listed(manifest.accumulators)}, and pruning.method keeps {_listed(ours)}: "
            f"resume with the method that it was written with"
        )
    files = manifest.accumulator_files
    _read_rows(folder, files, _of_weights(accumulators))
    _read_rows(folder, [entry for entry in files if entry.slices is not None], _of_inputs(accumulators))


Row = tuple[Shard, dict[str, Tensor]]
"""A shard, and its accumulators by their names in a file."""


def _read_rows(folder: Path, files: Sequence[FileEntry], rows: Sequence[Row]) -> None:
    named = {shard.tensor.name: row for shard, row in rows}

    def content(name: str, numel: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {key: (value.dtype, (numel, *value.shape[1:])) for key, value in named[name].items()}

    for overlap in read_overlaps(folder, files, [shard for shard, _ in rows], content, "accumulators"):
        for key, value in rows[overlap.index][1].items():
            value[overlap.here].copy_(overlap.entries[key][overlap.there])


def _of_weights(accumulators: AccumulatorSet) -> list[Row]:
    return [
        (shard, {f"{name}/{shard.tensor.name}": value for name, value in row.items()})
        for shard, row in zip(accumulators.shards, accumulators.values, strict=True)
        if accumulators.declared
    ]


def _of_inputs(accumulators: AccumulatorSet) -> list[Row]:
    inputs = accumulators.inputs
    if inputs is None:
        return []
    return [
        (shard, {shard.tensor.name: sums}) for shard, sums in zip(inputs.shards, inputs.values, strict=True)
    ]


def _dtype_name(kept: Accumulator) -> str:
    name = str(kept.dtype).removeprefix("torch.")
    return name if kept.block == 1 else f"{name}, products in blocks of {kept.block}"


def _listed(accumulators: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in accumulators.items()) or "no accumulators"
