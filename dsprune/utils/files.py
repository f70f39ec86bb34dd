"""Files that are whole or absent: written to a temporary name, flushed to disk, then renamed."""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dsprune.errors import UserError

__all__ = ["replace_file", "replace_folder", "replace_text", "sha256_of", "sole_writer"]


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under a temporary name beside `path`, then put it in place of `path`.

    A reader sees the old file or the new one. When `write` fails (a full disk, Ctrl-C), `path` is as it was
    and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _system_errors(path):
            write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` for a text."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """`replace_file` for a folder, which `write` makes under the temporary name."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with _system_errors(folder):
            write(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """What the system refuses safetensors, which tells it in words only, becomes the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make a folder, and keep out other processes that ask for this, too; the kernel forgets it with the process.

    Where the file system has no locks for folders (NFS), nobody is kept out. What is left empty is removed.

    Raises:
        UserError: another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is writing to it: wait until that one is done"
            ) from None
        except OSError:
            pass
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)
