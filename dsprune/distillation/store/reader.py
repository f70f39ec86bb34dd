"""Reading a store: records in any order, from memory-mapped files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation.signal import Head, TeacherSignal
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.format import (
    FINGERPRINT,
    MANIFEST,
    FileEntry,
    StoreManifest,
    check_origin,
    read_manifest,
)
from dsprune.distillation.store.tensor_file import TensorFile, as_tensor
from dsprune.errors import UserError

__all__ = ["Block", "Store", "open_store"]


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
    """

    def __init__(
        self, manifest: StoreManifest, shards: Sequence[TensorFile], heads: Mapping[str, Head]
    ) -> None:
        self.manifest = manifest
        self._shards = shards
        self._fingerprints = [shard.arrays["fingerprint"].view(FINGERPRINT)[:, 0] for shard in shards]
        self._firsts = np.array([fingerprints[0] for fingerprints in self._fingerprints])
        self._codecs = {
            name: codec_for(manifest.spec, output, heads.get(name))
            for name, output in manifest.spec.outputs.items()
        }

    @property
    def num_files(self) -> int:
        """Number of files with records or heads."""
        return len(self.manifest.shards) + (self.manifest.head is not None)

    @property
    def fingerprints(self) -> np.ndarray:
        """Fingerprints of all records, ascending. They are hashes, so the first n are a random sample."""
        return np.concatenate(self._fingerprints)

    def fetch(self, fingerprints: Sequence[bytes] | np.ndarray) -> dict[str, Block]:
        """Return the teacher's outputs for some samples, by name. All must be in the store, see `missing`."""
        shards, records = self._find(fingerprints)
        assert (records >= 0).all(), "a sample without a record: call `missing` before training"
        places = list(zip(shards.tolist(), records.tolist(), strict=True))
        blocks = {name: self._block(name, places) for name in self._codecs}
        for shard in set(shards.tolist()):
            self._shards[shard].release()
        return blocks

    def missing(self, fingerprints: Sequence[bytes] | np.ndarray) -> list[int]:
        """Return the positions in `fingerprints` of samples without a record."""
        _, records = self._find(fingerprints)
        return np.flatnonzero(records < 0).tolist()

    def _find(self, fingerprints: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shard and position in it of each sample; the position of a missing sample is -1."""
        wanted = np.array(fingerprints, dtype=FINGERPRINT)
        shards = np.searchsorted(self._firsts, wanted, side="right") - 1
        records = np.full(len(wanted), -1)
        for shard in np.unique(shards[shards >= 0]).tolist():
            here, known = np.flatnonzero(shards == shard), self._fingerprints[shard]
            found = np.searchsorted(known, wanted[here], side="right") - 1
            records[here] = np.where(known[found] == wanted[here], found, -1)
        return shards, records

    def _block(self, name: str, places: list[tuple[int, int]]) -> Block:
        codec, parts = self._codecs[name], []
        stored = codec.columns
        for shard, record in places:
            offsets = self._shards[shard].arrays[f"{name}.offsets"]
            parts.append((self._shards[shard], slice(int(offsets[record]), int(offsets[record + 1]))))
        for file, rows in parts:
            for key in stored:
                file.prefetch(f"{name}.{key}", rows)
        columns = {
            key: as_tensor(
                np.concatenate([file.arrays[f"{name}.{key}"][rows] for file, rows in parts]), column.dtype
            )
            for key, column in stored.items()
        }
        return Block(codec.signal(columns), torch.tensor([rows.stop - rows.start for _, rows in parts]))


def open_store(
    folder: Path,
    expected: Mapping[str, str] | None = None,
    *,
    verify: bool = True,
    device: torch.device | None = None,
) -> Store:
    """Open a complete store.

    Args:
        folder: the store.
        expected: expected values of the manifest's `origin`, such as the teacher's fingerprint; others are not checked.
        verify: read everything once and compare checksums; False = compare headers and sizes only.
        device: device of the heads of kind `hidden`; None = the CPU.

    Raises:
        UserError: the store is incomplete, damaged or was made from something else.
    """
    manifest = read_manifest(folder)
    check_origin(folder, manifest.origin, expected or {})
    shards = [_open(folder, manifest, entry, verify=verify) for entry in manifest.shards]
    _check_records(folder, manifest, shards)
    heads = {}
    if manifest.head is not None:
        arrays = _open(folder, manifest, manifest.head, verify=verify).arrays
        dtype = manifest.spec.torch_head_dtype
        for name in manifest.spec.outputs:
            if not {f"{name}.weight", f"{name}.bias"} <= arrays.keys():
                raise UserError(f"{folder / manifest.head.file}: no head of {name}: make the store again")
            head = Head(*(as_tensor(arrays[f"{name}.{part}"].copy(), dtype) for part in ("weight", "bias")))
            heads[name] = head.to(device or torch.device("cpu"))
    return Store(manifest, shards, heads)


def _check_records(folder: Path, manifest: StoreManifest, shards: Sequence[TensorFile]) -> None:
    """Check that the shards have the columns of the specification, and all records, in order."""
    columns = {
        f"{name}.{key}": (column.dtype.itemsize, column.shape)
        for name, output in manifest.spec.outputs.items()
        for key, column in codec_for(manifest.spec, output).columns.items()
    }
    offsets = {f"{name}.offsets": (8, ()) for name in manifest.spec.outputs}
    expected = {"fingerprint": (1, (FINGERPRINT.itemsize,)), **offsets, **columns}
    for shard in shards:
        found = {name: (array.dtype.itemsize, array.shape[1:]) for name, array in shard.arrays.items()}
        if found != expected or not len(shard.arrays["fingerprint"]):
            raise UserError(f"{shard.path}: its columns are not those in {MANIFEST}: make the store again")
    firsts = [shard.arrays["fingerprint"][0].tobytes() for shard in shards]
    num_records = sum(len(shard.arrays["fingerprint"]) for shard in shards)
    if num_records != manifest.num_records or firsts != sorted(firsts):
        raise UserError(
            f"{folder / MANIFEST}: {num_records:,} of {manifest.num_records:,} records are in the listed shards, or "
            f"not in order: copy the manifest again"
        )


def _open(folder: Path, manifest: StoreManifest, entry: FileEntry, *, verify: bool) -> TensorFile:
    file = TensorFile(folder / entry.file)
    if file.seal != entry.seal or {**file.metadata, **manifest.header} != file.metadata:
        raise UserError(
            f"{file.path}: its header does not match {MANIFEST}, one of them is damaged or of another store: "
            "copy both again"
        )
    if verify:
        file.check()
    return file
