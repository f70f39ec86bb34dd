"""The index of a store: the fingerprints of all records in one sorted file, which the processes of a host share.

It holds `fingerprint` of every record, ascending; `leading`, its first eight bytes as numbers; `bounds` (shard i holds
the records bounds[i] to bounds[i + 1]); and `sizes`, the bytes of the file of each shard. A store of an earlier version
has none: it is made at the first opening.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dsprune.distillation.store.files import (
    CheckedFiles,
    fingerprints_of,
    open_file,
    open_shard,
)
from dsprune.distillation.store.format import FINGERPRINT, INDEX_FILE, MANIFEST, FileEntry, StoreManifest
from dsprune.distillation.store.tensor_file import TensorFile, write_tensors
from dsprune.errors import UserError
from dsprune.utils.console import progress_bar
from dsprune.utils.installation import cache_folder

__all__ = ["Index", "open_index", "write_index"]

CHUNK = 2**20
"""Fingerprints that are looked up together."""

COLUMNS = {
    "fingerprint": (1, (FINGERPRINT.itemsize,)),
    "leading": (8, ()),
    "bounds": (8, ()),
    "sizes": (8, ()),
}


class Index:
    """An open index.

    Attributes:
        fingerprints: `[records]`, ascending; mapped, not read.
        bounds: `[shards + 1]`; shard i holds the records `bounds[i]` to `bounds[i + 1]`.
        sizes: `[shards]`, bytes of the file of each shard.

    Raises:
        UserError: the file is no index.
    """

    def __init__(self, file: TensorFile) -> None:
        found = {name: (array.dtype.itemsize, array.shape[1:]) for name, array in file.arrays.items()}
        if found != COLUMNS or not len(file.arrays["fingerprint"]):
            raise UserError(f"{file.path}: its columns are not those of an index: make the store again")
        self._file, self._leading = file, file.arrays["leading"]
        self.fingerprints = file.arrays["fingerprint"].view(FINGERPRINT)[:, 0]
        self.bounds, self.sizes = file.arrays["bounds"].copy(), file.arrays["sizes"].copy()

    def find(self, fingerprints: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Return the number of the record of each sample; -1 where there is none."""
        wanted = np.asarray(fingerprints, dtype=FINGERPRINT)
        last, leading = len(self.fingerprints) - 1, _leading(wanted)
        order = np.argsort(leading)  # a search after that of a smaller number starts where that one ended
        records = np.empty(len(wanted), dtype=np.int64)
        records[order] = np.minimum(np.searchsorted(self._leading, leading[order]), last)
        found = self.fingerprints[records] == wanted
        # Two fingerprints hardly ever begin with the same eight bytes; then all sixteen decide.
        alike = np.flatnonzero(~found & (self._leading[records] == leading))
        records[alike] = np.minimum(np.searchsorted(self.fingerprints, wanted[alike]), last)
        found[alike] = self.fingerprints[records[alike]] == wanted[alike]
        return np.where(found, records, -1)

    def missing(self, fingerprints: Sequence[bytes] | np.ndarray) -> list[int]:
        """Return the positions in `fingerprints` of samples without a record.

        They are looked up in ascending order, so that the index is read once, from its beginning to its end.
        """
        wanted = np.asarray(fingerprints, dtype=FINGERPRINT)
        order = np.argsort(_leading(wanted))
        absent = [np.empty(0, dtype=order.dtype)]
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            absent.append(places[self.find(wanted[places]) < 0])
            self._file.release()
        positions: list[int] = np.sort(np.concatenate(absent)).tolist()
        return positions

    def shards_of(self, records: np.ndarray) -> np.ndarray:
        """Return the shard of each record."""
        return np.searchsorted(self.bounds, records, side="right") - 1


def write_index(
    path: Path,
    fingerprints: np.ndarray,
    bounds: np.ndarray,
    shards: Sequence[Path],
    entries: Sequence[FileEntry],
    header: Mapping[str, Any],
) -> None:
    """Write the index of a store.

    Args:
        path: the file to write.
        fingerprints: `[records]`, ascending.
        bounds: `[shards + 1]`, see `Index`.
        shards: the files of the shards.
        entries: their entries in the manifest.
        header: the fields that every file of the store has in its header.
    """
    tensors = {
        "leading": torch.from_numpy(_leading(fingerprints)),
        "fingerprint": torch.from_numpy(fingerprints.view(np.uint8).reshape(-1, FINGERPRINT.itemsize)),
        "bounds": torch.from_numpy(np.asarray(bounds, dtype=np.int64)),
        "sizes": torch.tensor([shard.stat().st_size for shard in shards]),
    }
    write_tensors(path, tensors, {**header, "shards": digest_of(entries)})


def _leading(fingerprints: np.ndarray) -> np.ndarray:
    """Return the first eight bytes as numbers, which sort as the fingerprints do, and ten times as fast."""
    return fingerprints.view(">u8")[::2].astype(np.uint64)


def digest_of(entries: Sequence[FileEntry]) -> str:
    """Return a SHA-256 over the entries of all shards, which ties an index to them."""
    return hashlib.sha256("\n".join(f"{entry.file} {entry.seal}" for entry in entries).encode()).hexdigest()


def open_index(folder: Path, manifest: StoreManifest, checked: CheckedFiles) -> TensorFile:
    """Open the index; that of an earlier version's store is made first, in the cache where the store is read-only."""
    if manifest.index is not None:
        file = open_file(folder, manifest, manifest.index)
    else:
        home = folder if os.access(folder, os.W_OK) else cache_folder() / "stores" / manifest.plan[:32]
        path = next((place / INDEX_FILE for place in (folder, home) if (place / INDEX_FILE).exists()), None)
        file = TensorFile(path or _make_index(folder, home, manifest))
    if file.metadata != {**manifest.header, "shards": digest_of(manifest.shards)}:
        raise UserError(
            f"{file.path}: not the index of the shards in {MANIFEST}: copy both again, or remove it"
        )
    checked.check(file)
    return file


def _make_index(folder: Path, home: Path, manifest: StoreManifest) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    paths, fingerprints = [folder / entry.file for entry in manifest.shards], []
    progress = progress_bar(Console(stderr=True), shown=os.environ.get("LOCAL_RANK", "0") == "0")
    with progress:
        what = f"{folder}: making its index, once"
        for number in progress.track(range(len(paths)), description=what):
            fingerprints.append(fingerprints_of(open_shard(folder, manifest, number)).copy())
    bounds = np.cumsum([0, *map(len, fingerprints)])
    _check_order(folder, manifest, fingerprints)
    write_index(
        home / INDEX_FILE, np.concatenate(fingerprints), bounds, paths, manifest.shards, manifest.header
    )
    return home / INDEX_FILE


def _check_order(folder: Path, manifest: StoreManifest, fingerprints: Sequence[np.ndarray]) -> None:
    firsts, num_records = [one[0].tobytes() for one in fingerprints], sum(map(len, fingerprints))
    if num_records != manifest.num_records or firsts != sorted(firsts):
        raise UserError(
            f"{folder / MANIFEST}: {num_records:,} of {manifest.num_records:,} records are in the listed shards, or "
            f"not in order: copy the manifest again"
        )
