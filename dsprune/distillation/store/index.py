"""The index of a store: the fingerprints of all records in one sorted file, which the processes of a host share.

It holds `fingerprint` of every record, ascending; `leading`, its first eight bytes as numbers; `bounds` (shard i holds
the records bounds[i] to bounds[i + 1]); and `sizes`, the bytes of the file of each shard. A store of an earlier version
has no index: it is made at the first opening.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dsprune.distillation.store.files import CheckedFiles, as_column, fingerprints_of, open_file, open_shard
from dsprune.distillation.store.format import FINGERPRINT, INDEX_FILE, MANIFEST, FileEntry, StoreManifest
from dsprune.distillation.store.tensor_file import TensorFile, write_tensors
from dsprune.errors import UserError
from dsprune.ranks.ranks import is_first_on_host
from dsprune.utils.console import progress_bar
from dsprune.utils.installation import cache_folder

__all__ = ["Index", "open_index", "write_index"]

CHUNK = 2**23
"""Number of fingerprints that are sorted together: the index is read once per chunk; a chunk takes 400 MB."""

BLOCK = 2**13
"""Number of sorted fingerprints that are looked up together; their part of the index fits a processor's cache."""

NEAR = 16
"""Records before and after a guess that are compared."""

COLUMNS = {
    "fingerprint": (1, (FINGERPRINT.itemsize,)),
    "leading": (8, ()),
    "bounds": (8, ()),
    "sizes": (8, ()),
}


class Index:
    """An open index.

    Attributes:
        fingerprints: `[records]`, ascending; memory-mapped.
        bounds: `[shards + 1]`; shard i holds the records `bounds[i]` to `bounds[i + 1]`.
        sizes: `[shards]`, bytes of the file of each shard.

    Raises:
        UserError: the file is no index.
    """

    def __init__(self, file: TensorFile) -> None:
        if file.columns() != COLUMNS or not len(file.arrays["fingerprint"]):
            raise UserError(f"{file.path}: its columns are not those of an index: make the store again")
        self._file, self._heads = file, file.arrays["leading"]
        self.fingerprints = fingerprints_of(file)
        self._tails = self.fingerprints.view(">u8")[1::2]
        self.bounds, self.sizes = file.arrays["bounds"].copy(), file.arrays["sizes"].copy()

    def find(self, fingerprints: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Return the number of the record of each sample; -1 if it has none."""
        heads, tails = _halves(np.asarray(fingerprints, dtype=FINGERPRINT))
        records = self._guess(heads)
        others = np.flatnonzero((self._heads[records] != heads) | (self._tails[records] != tails))
        if len(others):
            others = others[np.argsort(heads[others])]
            records[others] = self._find(heads[others], tails[others])
        return records

    def missing(self, fingerprints: Sequence[bytes] | np.ndarray) -> list[int]:
        """Return the positions in `fingerprints` of samples without a record.

        The memory does not depend on their number: chunks are sorted one at a time, and the index is read in order for
        each.
        """
        wanted = np.asarray(fingerprints, dtype=FINGERPRINT)
        absent: list[int] = []
        for start in range(0, len(wanted), CHUNK):
            heads, tails = _halves(wanted[start : start + CHUNK])
            order = _rough_order(heads)
            blocks = (order[begin : begin + BLOCK] for begin in range(0, len(order), BLOCK))
            places = [block[self._find(heads[block], tails[block]) < 0] for block in blocks]
            absent += (start + np.sort(np.concatenate(places))).tolist()
            self._file.release()
        return absent

    def _guess(self, heads: np.ndarray) -> np.ndarray:
        """Guess the record of each fingerprint from its value, because hashes are evenly distributed.

        Most guesses are right. A search reads a dozen pages per fingerprint, a guess three or four.
        """
        last, density, sizes = len(self._heads) - 1, len(self._heads) / 2**64, heads.astype(np.float64)
        places = (sizes * density).astype(np.int64).clip(0, last)
        for _ in range(3):
            places += ((sizes - self._heads[places]) * density).astype(np.int64)
            places.clip(0, last, out=places)
        near = (places[:, None] + np.arange(-NEAR, NEAR)).clip(0, last)
        nearest = (self._heads[near] == heads[:, None]).argmax(axis=1)
        records: np.ndarray = near[np.arange(len(heads)), nearest]
        return records

    def _find(self, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """Return the number of the record of each fingerprint, or -1; fastest if they are sorted."""
        last, low = len(self.fingerprints) - 1, np.searchsorted(self._heads, heads.min())
        part = self._heads[low : np.searchsorted(self._heads, heads.max(), side="right")]
        records = np.minimum(low + np.searchsorted(part, heads), last)
        alike = self._heads[records] == heads
        found = alike & (self._tails[records] == tails)
        # Two fingerprints very rarely have the same first eight bytes; then all sixteen are compared.
        others = np.flatnonzero(alike & ~found)
        wanted = np.stack([heads[others], tails[others]], axis=1).astype(">u8").view(FINGERPRINT)[:, 0]
        records[others] = np.minimum(np.searchsorted(self.fingerprints, wanted), last)
        found[others] = self.fingerprints[records[others]] == wanted
        return np.where(found, records, -1)

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
        "leading": torch.from_numpy(_heads(fingerprints)),
        "fingerprint": as_column(fingerprints),
        "bounds": torch.from_numpy(np.asarray(bounds, dtype=np.int64)),
        "sizes": torch.tensor([shard.stat().st_size for shard in shards]),
    }
    write_tensors(path, tensors, {**header, "shards": digest_of(entries)})


def _halves(fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last eight bytes as numbers."""
    return _heads(fingerprints), fingerprints.view(">u8")[1::2].astype(np.uint64)


def _heads(fingerprints: np.ndarray) -> np.ndarray:
    """Return the first eight bytes as numbers, which have the order of the fingerprints and sort ten times faster."""
    return fingerprints.view(">u8")[::2].astype(np.uint64)


def _rough_order(heads: np.ndarray) -> np.ndarray:
    """Return the places of numbers in the ascending order of their upper bits.

    The places replace the lower bits, so that one fast sort of numbers orders both.
    """
    below = np.uint64((1 << (len(heads) - 1).bit_length()) - 1)
    packed = heads & ~below
    packed |= np.arange(len(heads), dtype=np.uint64)
    packed.sort()
    packed &= below
    return packed.view(np.int64)


def digest_of(entries: Sequence[FileEntry]) -> str:
    """Return the SHA-256 over the entries of all shards, which identifies the shards of an index."""
    return hashlib.sha256("\n".join(f"{entry.file} {entry.seal}" for entry in entries).encode()).hexdigest()


def open_index(folder: Path, manifest: StoreManifest, checked: CheckedFiles) -> TensorFile:
    """Open the index. For a store of an earlier version, make it first, in the cache if the store is read-only."""
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
    progress = progress_bar(Console(stderr=True, quiet=not is_first_on_host()))
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
