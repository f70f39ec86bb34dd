"""Read tensors from the safetensors files of a Hugging Face model folder, without building the model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsprune.errors import UserError

__all__ = ["ModelFiles"]


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
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"{index}: not an index of safetensors files: use another copy of the model"
                ) from error
        else:
            with _opened(folder / "model.safetensors") as file:
                self._file_of = dict.fromkeys(file.keys(), "model.safetensors")

    def views(self, name: str) -> dict[str, Tensor]:
        """Return the flattened weights of a tensor, under the key "weights".

        Raises:
            UserError: the folder has no such tensor, or its file cannot be read.
        """
        if name not in self._file_of:
            raise UserError(f"{self.folder}: no tensor {name}: the masks are of another model")
        with _opened(self.folder / self._file_of[name]) as file:
            return {"weights": file.get_tensor(name).view(-1)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}): use another copy of the model") from error
