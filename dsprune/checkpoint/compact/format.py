"""The compact form of a sparse model on disk, format 1.

    folder/compact.json                        format, dtype, size and SHA-256 of every other file; written last
    folder/compact.safetensors                 all tensors by name; for a pruned tensor only the kept values
    folder/dsprune.json, masks-*.safetensors   the masks, as in the model folder
    folder/config.json, tokenizer.json, ...    the other files of the model folder

`dsprune.json` lists the pruned tensors and their shapes. Each is stored as a 1-D tensor of its kept values, in the
order of the flattened tensor. The mask has one bit per weight: bit j of byte i is weight 8 i + j, 1 = kept. Pruned
weights are +0.0. All other tensors are stored in full; tied ones are stored once. Each weight file of the model becomes
one compact file: `compact-00001-of-00003.safetensors`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from dsprune.checkpoint.file_list import FileRecord, check_file
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST, MaskManifest
from dsprune.model.opened import COMPACT
from dsprune.utils.records import FileName, Record, read_record

__all__ = [
    "COMPACT",
    "CompactManifest",
    "Dtype",
    "carried_files",
    "check_listed",
    "is_compact",
    "read_compact_manifest",
    "weight_file",
    "weight_files",
]

Dtype = Literal["fp16", "bf16"]

WEIGHTS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".pkl")
"""Endings of the names of weight files, which a compact folder replaces."""


class CompactManifest(Record):
    """The content of `compact.json`.

    Attributes:
        dtype: the dtype to which all floating-point tensors were rounded; None = as trained.
        files: every other file of the folder, by its name.
    """

    format: Literal[1] = 1
    dtype: Dtype | None
    files: dict[FileName, FileRecord]


def weight_file(stem: str, number: int, count: int) -> str:
    """Return the name of a weight file, counted from 1.

    Examples:
        >>> weight_file("compact", 1, 1), weight_file("model", 2, 3)
        ('compact.safetensors', 'model-00002-of-00003.safetensors')
    """
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors"


def weight_files(manifest: CompactManifest) -> list[str]:
    """Return the names of the compact weight files, in order."""
    return sorted(
        name for name in manifest.files if re.fullmatch(r"compact(-\d+-of-\d+)?\.safetensors", name)
    )


def carried_files(names: Iterable[str], masks: MaskManifest) -> list[str]:
    """Return the files of a folder that its compact form keeps: the masks, and all files except weights."""
    others = (name for name in names if not name.endswith(WEIGHTS) and name != COMPACT)
    return [*others, *(entry.file for entry in masks.files)]


def is_compact(folder: Path) -> bool:
    """Return whether a folder holds the compact form of a model."""
    return (folder / COMPACT).is_file()


def read_compact_manifest(folder: Path) -> CompactManifest:
    """Read `compact.json`, and check every file that it lists.

    Raises:
        UserError: it is missing, damaged or of another format; a file is missing, damaged or not listed.
    """
    path = folder / COMPACT
    if not is_compact(folder):
        raise UserError(f"{folder}: no {COMPACT}: give a folder that dsprune export --compact wrote")
    way_out = "export it again, or use another copy"
    manifest = read_record(path, CompactManifest, "a compact model of format 1", way_out)
    for name, record in manifest.files.items():
        check_file(folder / name, record, COMPACT, "use another copy of the folder")
    return manifest


def check_listed(folder: Path, manifest: CompactManifest, masks: MaskManifest) -> None:
    """Check that `compact.json` lists all files that the model needs.

    Raises:
        UserError: it does not.
    """
    names = [MANIFEST, *(entry.file for entry in masks.files)]
    if (folder / "config.json").exists():  # a module that is not transformers' own has none
        names.append("config.json")
    for name in names:
        if name not in manifest.files:
            raise UserError(f"{folder / COMPACT}: does not list {name}: use another copy of the folder")
