"""The files of a store. Opening one always checks its header, and its content once per host."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.format import FINGERPRINT, MANIFEST, FileEntry, StoreManifest
from dsprune.distillation.store.tensor_file import TensorFile
from dsprune.errors import UserError
from dsprune.utils.installation import cache_folder

__all__ = ["CheckedFiles", "as_column", "entries", "fingerprints_of", "open_file", "open_shard"]


class CheckedFiles:
    """The files of a store that this host has compared with their checksums, so that each is read only once for this.

    They are remembered in the user's cache by path, header, size and time.

    Args:
        plan: digest of the store's plan.
    """

    def __init__(self, plan: str) -> None:
        self._list = cache_folder() / "stores" / f"{plan[:32]}.checked"
        self._known: set[str] = set()

    def check(self, file: TensorFile) -> None:
        """Compare a file with its checksum, unless this was done since the file was written.

        Raises:
            UserError: they differ.
        """
        stat = file.path.stat()
        line = f"{file.seal} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {file.path.resolve()}"
        if line not in self._known and line not in self._read():
            file.check()
            self._add(line)

    def _read(self) -> set[str]:
        """Read the list again, because other processes add to it."""
        if self._list.is_file():
            self._known.update(self._list.read_text(encoding="utf-8", errors="replace").split("\n"))
        return self._known

    def _add(self, line: str) -> None:
        self._known.add(line)
        try:
            self._list.parent.mkdir(parents=True, exist_ok=True)
            with self._list.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{line}\n")
        except OSError:  # without a cache every process checks
            pass


def open_shard(folder: Path, manifest: StoreManifest, number: int) -> TensorFile:
    """Open a shard, and check that it has the columns of the specification."""
    file = open_file(folder, manifest, manifest.shards[number])
    if file.columns() != _columns(manifest) or not len(file.arrays["fingerprint"]):
        raise UserError(f"{file.path}: its columns are not those in {MANIFEST}: make the store again")
    return file


def _columns(manifest: StoreManifest) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return the size of an entry and the shape of a row of each column of a shard."""
    columns: dict[str, tuple[int, tuple[int, ...]]] = {"fingerprint": (1, (FINGERPRINT.itemsize,))}
    for name, output in manifest.spec.outputs.items():
        columns[f"{name}.offsets"] = (8, ())
        for key, column in codec_for(manifest.spec, output).columns.items():
            columns[f"{name}.{key}"] = (column.dtype.itemsize, column.shape)
    return columns


def fingerprints_of(shard: TensorFile) -> np.ndarray:
    """Return the fingerprints of a shard's records, `[records]`."""
    return shard.arrays["fingerprint"].view(FINGERPRINT)[:, 0]


def as_column(fingerprints: np.ndarray) -> Tensor:
    """Undo `fingerprints_of`."""
    return torch.from_numpy(fingerprints.view(np.uint8).reshape(-1, FINGERPRINT.itemsize))


def entries(manifest: StoreManifest) -> Iterator[FileEntry]:
    """Yield the entries of all files."""
    yield from manifest.shards
    yield from (entry for entry in (manifest.head, manifest.index) if entry is not None)


def open_file(folder: Path, manifest: StoreManifest, entry: FileEntry) -> TensorFile:
    """Open a file, and check that its header is the one that the manifest lists."""
    file = TensorFile(folder / entry.file)
    if file.seal != entry.seal or {**file.metadata, **manifest.header} != file.metadata:
        raise UserError(
            f"{file.path}: its header does not match {MANIFEST}, one of them is damaged or of another store: "
            "copy both again"
        )
    return file
