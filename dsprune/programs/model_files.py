"""Tensors by name out of a Hugging Face model folder, without making the model."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsprune.errors import UserError

__all__ = ["ModelFiles"]


class ModelFiles:
    """The safetensors files of a model folder, one or several.

    Raises:
        UserError: there are none, or one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                self._file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(f"{index}: is not an index of safetensors files: mend the model") from error
        else:
            self._file_of = dict.fromkeys(self._names("model.safetensors"), "model.safetensors")

    def views(self, name: str) -> dict[str, Tensor]:
        """The flattened weights of a tensor.

        Raises:
            UserError: the folder has no such tensor.
        """
        if name not in self._file_of:
            raise UserError(f"{self.folder}: no tensor {name}: the masks are of another model")
        path = self.folder / self._file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                return {"weights": file.get_tensor(name).view(-1)}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}): use another copy of the model") from error

    def _names(self, file_name: str) -> list[str]:
        path = self.folder / file_name
        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}): use another copy of the model") from error
