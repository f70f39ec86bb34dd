"""A file mapped into memory without a file descriptor, of which a process has a thousand or so."""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

__all__ = ["MappedFile"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_FAILED = ctypes.c_void_p(-1).value


class MappedFile:
    """The content of a file, read from disk on access.

    Python's `mmap` keeps the file open as long as it is mapped. Pages that were accessed count as memory of this
    process until `release`.

    Attributes:
        bytes: the content, read-only. It keeps the file mapped.

    Raises:
        OSError: it cannot be read, or is empty.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._size = os.fstat(file.fileno()).st_size
            self._address = _map(path, file.fileno(), self._size)
        memory = (ctypes.c_ubyte * self._size).from_address(self._address)
        weakref.finalize(memory, _libc.munmap, self._address, self._size).atexit = False
        self.bytes = np.frombuffer(memoryview(memory), dtype=np.uint8)
        self.bytes.flags.writeable = False

    def prefetch(self, begin: int, end: int) -> None:
        """Have the system read some bytes in the background; otherwise pages are read one after another."""
        page = begin - begin % mmap.PAGESIZE
        _libc.madvise(self._address + page, end - page, mmap.MADV_WILLNEED)

    def release(self) -> None:
        """Release the pages to the system, which keeps them in its cache as long as there is room."""
        _libc.madvise(self._address, self._size, mmap.MADV_DONTNEED)


def _map(path: Path, descriptor: int, size: int) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return int(address)
