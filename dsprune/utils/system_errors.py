"""Errors of the operating system, told in one line with the way out."""

import errno
import os

from dsprune.utils.text import first_line

__all__ = ["describe_system_error", "is_full_disk", "system_error"]

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


def system_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system that an error is or comes from; None if there is none.

    Python's import reports that no file can be opened as an ImportError with a text.
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
    path = error.filename2 or error.filename  # of a renamed file, its new name
    where = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes | os.PathLike) else ""
    reason = error.strerror or first_line(error)
    way_out = WAYS_OUT.get(error.errno or 0, "check the path and its disk")
    return f"{where}{reason}: {way_out}"
