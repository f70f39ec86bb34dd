"""Fingerprints of models and tokenizers, to check that two of them are the same."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from dsprune.utils.files import sha256_of

__all__ = ["local_folder", "teacher_fingerprint", "tokenizer_fingerprint"]

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def teacher_fingerprint(path: str) -> str | None:
    """Return the SHA-256 over the weight files and the configuration of a model (a folder, or a name on the hub).

    It is None if the weights are not on this machine.
    """
    folder = local_folder(path)
    weights = next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), None)
    if weights is None:
        return None
    files = [file for file in (folder / "config.json", *weights) if file.is_file()]
    return _digest(
        {file.name: _sha256_once(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    )


@cache
def _sha256_once(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, which may be large; it is read again only after a change."""
    del size, changed
    return sha256_of(file)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 over everything that determines the tokens of a text, except padding and truncation."""
    state: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "vocabulary": tokenizer.get_vocab(),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # The padding and truncation of the last call remain in the backend.
        state["rules"] = {key: rules[key] for key in rules if key not in ("padding", "truncation")}
    return _digest(state)


def local_folder(path: str) -> Path:
    """Return the local folder of a model; for a hub name, its folder in the cache."""
    if Path(path).is_dir():
        return Path(path)
    try:
        config = cached_file(path, "config.json", local_files_only=True)
    except OSError:
        config = None
    return Path(config).parent if config else Path(path)


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
