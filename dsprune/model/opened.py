"""Open the safetensors files of a model folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dsprune.errors import UserError

__all__ = ["COMPACT", "opened"]

COMPACT = "compact.json"
"""The list of files in the compact form of a model, see `dsprune.checkpoint.compact`."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file to read single tensors.

    Raises:
        UserError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait forever, even after a signal
        raise UserError(f"{path}: not a file: use another copy of the model")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}): use another copy of the model") from error
