"""Read tensors from the safetensors files of a Hugging Face model folder, without building the model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsprune.errors import UserError

__all__ = ["ModelFiles", "opened"]


class ModelFiles:
    """The safetensors files of a model folder: one file, or several with an index.

    Raises:
        UserError: there is no file, or one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                self._file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                if any(Path(file).name != file for file in self._file_of.values()):
                    raise ValueError("a file is in another folder")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{index}: not an index of safetensors files: use another copy of the model"
                ) from error
        else:
            with opened(folder / "model.safetensors") as file:
                self._file_of = dict.fromkeys(file.keys(), "model.safetensors")

    def names_by_file(self) -> dict[str, list[str]]:
        """Return the names of the tensors of each file, files in the order of their names."""
        files = sorted(set(self._file_of.values()))
        return {file: [name for name in self._file_of if self._file_of[name] == file] for file in files}

    def views(self, name: str) -> dict[str, Tensor]:
        """Return the flattened weights of a tensor, under the key "weights".

        Raises:
            UserError: the folder has no such tensor, or its file cannot be read.
        """
        return {"weights": self.tensor(name).view(-1)}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            UserError: the folder has no such tensor, or its file cannot be read.
        """
        if name not in self._file_of:
            raise UserError(f"{self.folder}: no tensor {name}: the masks are of another model")
        with opened(self.folder / self._file_of[name]) as file:
            values: Tensor = file.get_tensor(name)
            return values


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file for the reading of single tensors.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}): use another copy of the model") from error
