"""A safetensors file with a checksum, mapped into memory: arrays are read from disk on access.

It is mapped without keeping a file descriptor, because a process may have only about a thousand.
"""

import ctypes
import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.utils.files import replace_file

__all__ = ["TensorFile", "as_tensor", "damaged", "missing", "write_tensors"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_FAILED = ctypes.c_void_p(-1).value

FORMAT = 1

KEY = "dsprune"
"""The only key of the metadata: the library writes several keys in no particular order."""

MAX_HEADER_BYTES = 2**20

# numpy has no bf16, so its bits are read as integers.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I64": "<i8", "U64": "<u8"}


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
            self._address = _map_file(path, file.fileno(), self._size)
        memory = (ctypes.c_ubyte * self._size).from_address(self._address)
        weakref.finalize(memory, _libc.munmap, self._address, self._size).atexit = False
        self.bytes = np.frombuffer(memoryview(memory), dtype=np.uint8)
        self.bytes.flags.writeable = False

    def prefetch(self, begin: int, end: int) -> None:
        """Let the system read some bytes in the background; otherwise pages are read one after another."""
        page = begin - begin % mmap.PAGESIZE
        _libc.madvise(self._address + page, end - page, mmap.MADV_WILLNEED)

    def release(self) -> None:
        """Release the pages to the system, which caches them as long as there is room."""
        _libc.madvise(self._address, self._size, mmap.MADV_DONTNEED)


def _map_file(path: Path, descriptor: int, size: int) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return int(address)


class TensorFile:
    """A file that `write_tensors` has written.

    Attributes:
        path: the file.
        metadata: the metadata given to `write_tensors`.
        checksum: the tensors' checksum, as recorded in the header.
        arrays: read-only views by name. Pages that were accessed count as memory of this process until `release`.
        seal: SHA-256 of the header. It identifies the whole file, since the header holds the tensors' checksum.

    Raises:
        UserError: the file is missing, truncated, or of another format. The checksum is not compared, see `check`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map(path)
        self._size = self._map.bytes.size
        begin = 8 + int.from_bytes(self._map.bytes[:8].tobytes(), "little")
        if begin > min(MAX_HEADER_BYTES, self._size):
            raise damaged(path, "its header is truncated")
        header = self._map.bytes[8:begin].tobytes()
        self.seal = hashlib.sha256(header).hexdigest()
        try:
            self._read_header(json.loads(header), begin)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise damaged(path, f"its header was not written by dsprune: {error!r}") from error

    def _read_header(self, entries: dict[str, Any], begin: int) -> None:
        self.metadata: dict[str, Any] = json.loads(entries.pop("__metadata__")[KEY])
        self.checksum = self.metadata.pop("sha256")
        found = self.metadata.pop("format")
        if found != FORMAT:
            raise UserError(
                f"{self.path}: format {found}, this dsprune reads {FORMAT}: use a matching release"
            )
        end = begin + max(entry["data_offsets"][1] for entry in entries.values())
        if end != self._size:
            raise damaged(self.path, f"it has {self._size:,} bytes instead of {end:,}")
        self._offsets = {name: begin + entry["data_offsets"][0] for name, entry in entries.items()}
        self.arrays = {
            name: np.ndarray(entry["shape"], DTYPES[entry["dtype"]], self._map.bytes, self._offsets[name])
            for name, entry in entries.items()
        }

    def columns(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Return the size of an entry and the shape of a row of each array."""
        return {name: (array.dtype.itemsize, array.shape[1:]) for name, array in self.arrays.items()}

    def prefetch(self, name: str, rows: slice) -> None:
        """Let the system read some rows in the background; otherwise pages are read one after another."""
        if rows.start == rows.stop:
            return
        width = self.arrays[name].strides[0]
        begin = self._offsets[name] + rows.start * width
        self._map.prefetch(begin, begin + (rows.stop - rows.start) * width)

    def release(self) -> None:
        """Release the pages to the system, which caches them as long as there is room."""
        self._map.release()

    def check(self) -> None:
        """Compare the tensors with their checksum.

        Raises:
            UserError: they differ.
        """
        found = _checksum(self.arrays)
        self.release()
        if found != self.checksum:
            raise damaged(self.path, "its content does not match the checksum in its header")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write CPU tensors into a new file; an existing file must have the same content.

    Raises:
        UserError: the file exists with other content.
    """
    bits = {name: tensor.contiguous().view(torch.uint8).numpy() for name, tensor in tensors.items()}
    checksum = _checksum(bits)
    if path.exists():
        existing = TensorFile(path)
        if (existing.metadata, existing.checksum) != (metadata, checksum):
            raise UserError(f"{path}: exists with other content, nothing is overwritten: give another folder")
        return
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {KEY: json.dumps({**metadata, "format": FORMAT, "sha256": checksum}, sort_keys=True)}
    replace_file(path, lambda temporary: save_file(contiguous, temporary, header))


def as_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return a tensor of type `dtype` that shares the memory of an array."""
    return torch.from_numpy(array).view(dtype)


def _map(path: Path) -> MappedFile:
    if not path.is_file():
        raise missing(path)
    if path.stat().st_size < 8:
        raise damaged(path, "its header is truncated")
    return MappedFile(path)


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all arrays in the order of their names. Names and shapes are covered by the seal."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def missing(path: Path) -> UserError:
    """Return the error for a missing file of a store."""
    return UserError(f"{path}: missing: copy it from where the store was made, or make the store again")


def damaged(path: Path, what: str) -> UserError:
    """Return the error for a damaged file of a store; `what` describes the damage."""
    return UserError(f"{path}: damaged, {what}: copy it again, or remove it and make the store again")
