"""Read a compact folder as complete tensors, or write it as a model folder."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dsprune.checkpoint.compact.format import (
    carried_files,
    check_listed,
    read_compact_manifest,
    weight_file,
    weight_files,
)
from dsprune.checkpoint.file_list import MODEL_LIST, list_model_folder
from dsprune.errors import UserError
from dsprune.masks.bits import count_kept, unpack
from dsprune.masks.manifest import read_manifest
from dsprune.masks.mask_files import read_complete_masks
from dsprune.model.opened import opened

__all__ = ["CompactFiles", "expand_compact", "read_compact"]

INDEX = "model.safetensors.index.json"


def read_compact(folder: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a compact folder, by their names in the model folder.

    Args:
        folder: folder that `dsprune export --compact` wrote.

    Returns:
        All complete tensors, pruned weights as +0.0; a tied tensor has one name, as in the model folder.

    Raises:
        UserError: the folder is not a compact model, or a file is missing, damaged or of another format.
    """
    files = CompactFiles(Path(folder))
    return {name: files.tensor(name) for names in files.names_by_file.values() for name in names}


class CompactFiles:
    """The files of a compact folder, checked against their checksums.

    Attributes:
        manifest: the content of `compact.json`.
        masks: the content of `dsprune.json`.
        names_by_file: names of the tensors of each weight file.

    Raises:
        UserError: the folder is not a compact model, or a file is missing, damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_compact_manifest(folder)
        self.masks = read_manifest(folder)
        check_listed(folder, self.manifest, self.masks)
        masks = read_complete_masks(folder, self.masks)
        self._bits = {s.tensor.name: bits for s, bits in zip(masks.shards, masks.bits, strict=True)}
        self.names_by_file = {file: self._names(file) for file in weight_files(self.manifest)}
        self._file_of = {name: file for file, names in self.names_by_file.items() for name in names}
        for name in self._bits:
            self._check_values(name)

    def views(self, name: str) -> dict[str, Tensor]:
        """Return the flattened weights of a tensor, under the key "weights"."""
        return {"weights": self.tensor(name).view(-1)}

    def tensor(self, name: str) -> Tensor:
        """Return a complete tensor."""
        with opened(self.folder / self._file_of[name]) as file:
            values: Tensor = file.get_tensor(name)
        if name not in self._bits:
            return values
        full = torch.zeros(self.masks.tensors[name].shape, dtype=values.dtype)
        full.view(-1)[unpack(self._bits[name], full.numel())] = values
        return full

    def _names(self, file_name: str) -> list[str]:
        with opened(self.folder / file_name) as file:
            return list(file.keys())

    def _check_values(self, name: str) -> None:
        """Check that a pruned tensor has one value for each weight that its mask keeps."""
        if name not in self._file_of:
            raise UserError(f"{self.folder}: no values of {name}: use another copy of the folder")
        path, count = self.folder / self._file_of[name], count_kept(self._bits[name])
        with opened(path) as file:
            shape = file.get_slice(name).get_shape()
        if shape != [count]:
            raise UserError(
                f"{path}: {name} has shape {shape}, and its mask keeps {count:,} values: "
                "use another copy of the folder"
            )


def expand_compact(folder: Path, to: Path) -> None:
    """Write the original model folder of a compact folder, one weight file at a time.

    Raises:
        UserError: the folder is not a compact model, or a file is missing, damaged or of another format.
    """
    files = CompactFiles(folder)
    to.mkdir(parents=True, exist_ok=True)
    for name in carried_files(files.manifest.files, files.masks):
        shutil.copy(folder / name, to)
    file_of: dict[str, str] = {}
    size = 0
    for number, names in enumerate(files.names_by_file.values(), start=1):
        file = weight_file("model", number, len(files.names_by_file))
        tensors = {name: files.tensor(name) for name in names}
        save_file(tensors, to / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(names, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(files.names_by_file) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        (to / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    if (to / MODEL_LIST).exists():
        list_model_folder(to)
