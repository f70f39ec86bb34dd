"""Read tensors from the safetensors files of a Hugging Face model folder, without building the model."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.opened import opened
from dsprune.model.pretrained import load_saved
from dsprune.model.skeleton import read_weight_index

__all__ = ["ModelFiles"]


class ModelFiles:
    """The safetensors files of a model folder: one file, or several with an index.

    transformers stores the experts of most mixtures with names and shapes that differ from the model's parameters.
    These are read by loading the model.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if index.is_file() and not single.is_file():  # transformers prefers the single file
            self._file_of = read_weight_index(index)
        else:
            with opened(single) as file:
                self._file_of = dict.fromkeys(file.keys(), single.name)

    def names_by_file(self) -> dict[str, list[str]]:
        """Return the names of the tensors of each file, files in the order of their names."""
        files = sorted(set(self._file_of.values()))
        return {file: [name for name in self._file_of if self._file_of[name] == file] for file in files}

    def views(self, name: str) -> dict[str, Tensor]:
        """Return the flattened weights of a tensor, under the key "weights".

        Raises:
            UserError: the folder has no such tensor, or its file cannot be read.
        """
        return {"weights": self.tensor(name).reshape(-1)}

    def stores(self, name: str) -> bool:
        """Return whether a file has a tensor of this name."""
        return name in self._file_of

    def tensor(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            UserError: the folder has no such tensor, or its file cannot be read.
        """
        if not self.stores(name):
            if name not in self._loaded:
                raise UserError(f"{self.folder}: no tensor {name}: the masks are of another model")
            return self._loaded[name]
        with opened(self.folder / self._file_of[name]) as file:
            values: Tensor = file.get_tensor(name)
            return values

    @cached_property
    def _loaded(self) -> Mapping[str, Tensor]:
        """The tensors of the model that transformers loads from the files."""
        if not (self.folder / "config.json").is_file():
            return {}
        tensors: Mapping[str, Tensor] = load_saved(self.folder).state_dict()
        return tensors
