"""Write files and folders atomically, hash files, lock folders, and explain errors of the system with the way out."""

import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dsprune.errors import UserError
from dsprune.utils.text import first_line

__all__ = [
    "describe_system_error",
    "errors_named",
    "find_files",
    "flush",
    "is_full_disk",
    "lock_folder",
    "remove",
    "replace_file",
    "replace_folder",
    "replace_text",
    "sha256_of",
    "system_error",
]

FULL = (errno.ENOSPC, errno.EDQUOT)

WAYS_OUT = {
    **dict.fromkeys(FULL, "free some space, and run the same command again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or give another path"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "something else is there: give another path"
    ),
    errno.EROFS: "its file system is read-only: give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "there is no such file, or it was removed meanwhile: check the path",
}


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Create or replace a file: `write` fills a temporary file next to it, which is flushed to disk and renamed.

    A reader sees either the old file or the new one. If `write` fails (full disk, Ctrl-C), `path` is unchanged
    and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with errors_named(path):
            write(temporary)
            _follow_umask(temporary)
            flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until what was written to a file is on the disk, so that it survives a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file like `replace_file`."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_folder(
    folder: Path, write: Callable[[Path], object], *, stale: Sequence[str] | None = None
) -> None:
    """Create or replace a folder: `write` creates and fills a temporary folder, which then takes its place.

    If `write` fails, `folder` is unchanged and the temporary folder is removed.

    Args:
        folder: the folder.
        write: is called with the path of the temporary folder.
        stale: None = delete all that `folder` holds. Otherwise move what was written into `folder`, and delete only
            what has the same names or matches one of these patterns.

    Raises:
        UserError: another process is writing the same folder.
    """
    workplace = folder.with_name(f".{folder.name}.tmp")
    new, old = workplace / "new", workplace / "old"
    with lock_folder(workplace, f"another process is writing {folder.name}: wait, or give another folder"):
        if old.exists() and not folder.exists():  # a process was killed between the two renames
            old.rename(folder)
        for leftover in list(workplace.iterdir()):
            remove(leftover)
        try:
            with errors_named(folder):
                write(new)
            for path in new.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _follow_umask(path)
            if stale is not None and folder.is_dir():
                _move_into(folder, new, stale)
                return
            # Removing a large folder takes time, in which there would be none.
            with suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
            remove(old)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _move_into(folder: Path, new: Path, stale: Sequence[str]) -> None:
    written = {path.name for path in new.iterdir()}
    for path in list(folder.iterdir()):
        if path.name in written or any(fnmatch.fnmatch(path.name, pattern) for pattern in stale):
            remove(path)
    for name in written:
        (new / name).rename(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists; for a link, remove only the link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def find_files(folder: Path, pattern: str, on_error: Callable[[OSError], object] | None = None) -> list[Path]:
    """Return the files below a folder whose name matches a pattern, sorted; none if there is no such folder.

    Args:
        folder: where to search.
        pattern: name of the files, with wildcards as in a shell.
        on_error: is called with the error of each folder that cannot be read; None = raise it.

    Raises:
        UserError: a folder cannot be read, so that files may be missing.
    """

    def refuse(error: OSError) -> None:
        raise UserError(describe_system_error(error))

    if not folder.is_dir():
        return []
    walk = os.walk(folder, onerror=on_error or refuse)
    return sorted(Path(parent, name) for parent, _, files in walk for name in fnmatch.filter(files, pattern))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content.

    Raises:
        UserError: it is a pipe or a device, which could block forever.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file: put a copy of the file there")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_folder(folder: Path, busy: str) -> Iterator[None]:
    """Create a folder and lock it against other processes that call this; remove it at the end if it is empty.

    The kernel releases the lock when the process ends for any reason. A file system without locks admits every
    process. On a network file system the lock may work only within one host.

    Raises:
        UserError: another process holds the lock; the message is `busy`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {busy}") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            with suppress(OSError):  # not empty
                folder.rmdir()
    finally:
        os.close(descriptor)


def _follow_umask(path: Path) -> None:
    """Set the mode of a file by the umask; safetensors makes its files readable only for their owner."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(path.stat().st_mode | 0o666 & ~mask)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Add the path to an error of the system that has none, such as that of a write to a full disk.

    A safetensors error is replaced by the OSError that caused it, which it has only as text.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except SafetensorError as error:
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error that an error is or was caused by; None if there is none.

    If no file can be opened, Python's import raises an ImportError with a text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return None


def is_full_disk(error: OSError) -> bool:
    """Return whether a disk or a quota is full."""
    return error.errno in FULL


def describe_system_error(error: OSError) -> str:
    """Return path, reason and way out."""
    path = error.filename2 or error.filename  # for a renamed file, its new name
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    reason = error.strerror or first_line(error)
    way_out = WAYS_OUT.get(error.errno or 0, "check the path and its disk")
    return f"{where}{reason}: {way_out}"
