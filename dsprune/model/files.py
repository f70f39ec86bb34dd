"""Tensors by name out of a Hugging Face model folder, without making the model."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from dsprune.errors import UserError
from dsprune.utils.files import sha256_of

__all__ = ["ModelFiles", "teacher_fingerprint", "tokenizer_fingerprint"]


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


WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def teacher_fingerprint(path: str) -> str | None:
    """SHA-256 over the weight files and the configuration of a model.

    Args:
        path: folder, or name on the hub.

    Returns:
        None where its weights are not on this machine.
    """
    folder = _folder(path)
    weights = next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), None)
    if weights is None:
        return None
    files = [file for file in (folder / "config.json", *weights) if file.is_file()]
    return _digest({file.name: sha256_of(file) for file in files})


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over all that decides how a text becomes numbers, but for padding and truncation."""
    state: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "vocabulary": tokenizer.get_vocab(),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # The last call's padding and truncation are left in it.
        state["rules"] = {key: rules[key] for key in rules if key not in ("padding", "truncation")}
    return _digest(state)


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    try:
        config = cached_file(path, "config.json", local_files_only=True)
    except OSError:
        config = None
    return Path(config).parent if config else Path(path)


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
