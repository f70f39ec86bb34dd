"""What a teacher store was made from, in words and fingerprints that are compared before it is used."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from dsprune.pure.files import sha256_of
from dsprune.tasks.task import Task

__all__ = ["dataset_fingerprint", "origin_of_data", "teacher_fingerprint", "tokenizer_fingerprint"]

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


def origin_of_data(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What makes an example what the model reads, whichever example it is."""
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "preprocessing": task.preprocessing()}


def dataset_fingerprint(samples: np.ndarray) -> str:
    """SHA-256 over the samples' fingerprints, in whatever order and however often they come."""
    return hashlib.sha256(np.unique(samples).tobytes()).hexdigest()


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
