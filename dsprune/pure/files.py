"""Files that are whole or absent: written to a temporary name, flushed to disk, then renamed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["replace_file", "replace_text", "sha256_of"]


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under a temporary name beside `path`, then put it in place of `path`.

    A reader sees the old file or the new one. When `write` fails (a full disk, Ctrl-C), `path` is as it was
    and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` for a text."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
