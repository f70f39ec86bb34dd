"""Reading a store: records in any order, from memory-mapped files that are opened when they are first read."""

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation.signal import Head, TeacherSignal
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.files import CheckedFiles, entries, open_file, open_shard
from dsprune.distillation.store.format import StoreManifest, check_origin, read_manifest
from dsprune.distillation.store.index import Index, open_index
from dsprune.distillation.store.tensor_file import TensorFile, as_tensor, damaged, missing
from dsprune.errors import UserError

__all__ = ["Block", "Store", "open_store"]

SMALL_BYTES = 2**30
"""Stores up to this size are checked when they are opened, which takes seconds; larger ones when they are read."""

RESIDENT_BYTES = 2**29
"""Maximum memory of the files' pages in this process before they are released."""

RECORD_PAGES = 2**16
"""Bytes of pages that the system maps for a small record."""


Arrays = tuple[Callable[[int], int], tuple[np.ndarray, ...]]
"""The first row of each record, by its number, and the columns of one output in one shard."""


@dataclass(frozen=True)
class Block:
    """One output of some samples.

    Attributes:
        signal: the rows of all samples, one sample after the other.
        rows: `[samples]`, number of rows of each sample.
    """

    signal: TeacherSignal
    rows: Tensor


class Store:
    """An open store, see `open_store`.

    Memory does not grow with the number of records read: records are copied, and their pages are released.

    Attributes:
        manifest: the store's manifest.
        fingerprints: fingerprints of all records, ascending. They are hashes, so the first n are a random sample.
    """

    def __init__(
        self,
        folder: Path,
        manifest: StoreManifest,
        index: Index,
        heads: Mapping[str, Head],
        checked: CheckedFiles,
        *,
        verify: bool,
    ) -> None:
        self.manifest, self.fingerprints = manifest, index.fingerprints
        self._folder, self._index, self._checked, self._verify = folder, index, checked, verify
        self._shards: list[TensorFile | None] = [None] * len(manifest.shards)
        self._read: set[int] = set()
        self._read_bytes = 0
        self._codecs = {
            name: codec_for(manifest.spec, output, heads.get(name))
            for name, output in manifest.spec.outputs.items()
        }
        self._row_bytes = {
            name: sum(column.row_bytes for column in codec.columns.values())
            for name, codec in self._codecs.items()
        }
        # Upper bound of the pages of records; offsets are added when they are read.
        self._most_bytes = sum(manifest.num_rows[name] * size for name, size in self._row_bytes.items())
        self._arrays: dict[str, list[Arrays | None]] = {
            name: [None] * len(manifest.shards) for name in self._codecs
        }

    @property
    def num_files(self) -> int:
        """Number of files with records, heads or the index."""
        return len(list(entries(self.manifest)))

    def fetch(self, fingerprints: Sequence[bytes] | np.ndarray) -> dict[str, Block]:
        """Return the teacher's outputs for some samples, by name. All must be in the store, see `missing`.

        Raises:
            UserError: a file that is read for the first time is damaged.
        """
        records = self._index.find(fingerprints)
        assert (records >= 0).all(), "a sample without a record: call `missing` before training"
        shards = self._index.shards_of(records)
        inside = (records - self._index.bounds[shards]).tolist()
        places = list(zip(shards.tolist(), inside, strict=True))
        blocks = {name: self._block(name, places) for name in self._codecs}
        self._release(shards, blocks)
        return blocks

    def missing(self, fingerprints: Sequence[bytes] | np.ndarray) -> list[int]:
        """Return the positions in `fingerprints` of samples without a record."""
        return self._index.missing(fingerprints)

    def check(self) -> None:
        """Read all files, and compare them with their checksums.

        Raises:
            UserError: a file is damaged.
        """
        for entry in entries(self.manifest):
            open_file(self._folder, self.manifest, entry).check()
        for shard in range(len(self._shards)):
            self.shard(shard)

    def shard(self, number: int) -> TensorFile:
        """Return a shard, which is opened and checked on first use.

        Raises:
            UserError: the shard is damaged, or of another store.
        """
        file = self._shards[number]
        if file is None:
            file = open_shard(self._folder, self.manifest, number)
            if self._verify:
                self._checked.check(file)
            self._shards[number] = file
        return file

    def _block(self, name: str, places: list[tuple[int, int]]) -> Block:
        codec, known, parts = self._codecs[name], self._arrays[name], []
        for shard, record in places:
            first_row, arrays = known[shard] or self._arrays_of(name, shard)
            parts.append((arrays, first_row(record), first_row(record + 1)))
        columns = {}
        for i, (key, column) in enumerate(codec.columns.items()):
            if column.row_bytes >= mmap.PAGESIZE:  # smaller rows lie on one page
                for (shard, _), (_, begin, end) in zip(places, parts, strict=True):
                    self.shard(shard).prefetch(f"{name}.{key}", slice(begin, end))
            array = np.concatenate([arrays[i][begin:end] for arrays, begin, end in parts])
            columns[key] = as_tensor(array, column.dtype)
        return Block(codec.signal(columns), torch.tensor([end - begin for _, begin, end in parts]))

    def _arrays_of(self, name: str, shard: int) -> Arrays:
        """Return the first rows and the columns of an output in a shard, and cache them."""
        file = self.shard(shard)
        columns = tuple(file.arrays[f"{name}.{key}"] for key in self._codecs[name].columns)
        first_row = _equal_rows(offsets := file.arrays[f"{name}.offsets"])
        if first_row is None:
            self._most_bytes += offsets.nbytes
        file.release()
        self._arrays[name][shard] = arrays = first_row or offsets.item, columns
        return arrays

    def _release(self, shards: np.ndarray, blocks: Mapping[str, Block]) -> None:
        """Release the pages of all shards that were read, once they may exceed `RESIDENT_BYTES`."""
        self._read.update(shards.tolist())
        if self._most_bytes <= RESIDENT_BYTES:
            return
        for name, block in blocks.items():
            self._read_bytes += RECORD_PAGES * len(shards) + self._row_bytes[name] * len(block.signal)
        if self._read_bytes > RESIDENT_BYTES:
            for shard in self._read:
                self.shard(shard).release()
            self._read.clear()
            self._read_bytes = 0


def _equal_rows(offsets: np.ndarray) -> Callable[[int], int] | None:
    """Return a function from a record to its first row, if all records have the same number of rows; otherwise None."""
    each = offsets.item(1)
    if not np.array_equal(offsets, each * np.arange(len(offsets))):
        return None
    return lambda record: each * record


def open_store(
    folder: Path,
    expected: Mapping[str, str] | None = None,
    *,
    verify: bool = True,
    device: torch.device | None = None,
) -> Store:
    """Open a complete store.

    Its index and heads are checked now, and so are the shards of a small store; other shards when they are first read.
    A host remembers which files it has checked.

    Args:
        folder: the store.
        expected: expected values of the manifest's `origin`, such as the teacher's fingerprint; others are not checked.
        verify: compare checksums of shards and heads; False = compare headers and sizes only.
        device: device of the heads of kind `hidden`; None = the CPU.

    Raises:
        UserError: the store is incomplete, damaged or was made from another source.
    """
    manifest = read_manifest(folder)
    check_origin(folder, manifest.origin, expected or {})
    checked = CheckedFiles(manifest.plan)
    index = Index(open_index(folder, manifest, checked))
    _check_shards(folder, manifest, index)
    heads = _open_heads(folder, manifest, checked if verify else None, device or torch.device("cpu"))
    store = Store(folder, manifest, index, heads, checked, verify=verify)
    if index.sizes.sum() <= SMALL_BYTES:
        for shard in range(len(manifest.shards)):
            store.shard(shard)
    return store


def _check_shards(folder: Path, manifest: StoreManifest, index: Index) -> None:
    """Check that the files of all shards exist and are complete."""
    for entry, size in zip(manifest.shards, index.sizes.tolist(), strict=True):
        path = folder / entry.file
        if not path.is_file():
            raise missing(path)
        if (found := path.stat().st_size) != size:
            raise damaged(path, f"it has {found:,} bytes instead of {size:,}")


def _open_heads(
    folder: Path, manifest: StoreManifest, checked: CheckedFiles | None, device: torch.device
) -> dict[str, Head]:
    if manifest.head is None:
        return {}
    file = open_file(folder, manifest, manifest.head)
    if checked is not None:
        checked.check(file)
    heads, dtype = {}, manifest.spec.torch_head_dtype
    for name in manifest.spec.outputs:
        if not {f"{name}.weight", f"{name}.bias"} <= file.arrays.keys():
            raise UserError(f"{file.path}: no head of {name}: make the store again")
        weight, bias = (as_tensor(file.arrays[f"{name}.{part}"].copy(), dtype) for part in ("weight", "bias"))
        heads[name] = Head(weight, bias).to(device)
    return heads
