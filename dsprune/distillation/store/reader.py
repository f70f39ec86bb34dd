"""Reading a store: any records in any order, straight from disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation.signal import Head, TeacherSignal
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.fingerprint import FINGERPRINT
from dsprune.distillation.store.format import MANIFEST, FileEntry, StoreManifest, check_origin, read_manifest
from dsprune.distillation.store.tensor_file import TensorFile, as_tensor
from dsprune.errors import UserError

__all__ = ["Block", "Store", "open_store"]


@dataclass(frozen=True)
class Block:
    """One output of some samples.

    Attributes:
        signal: the rows of all samples, one sample after the other.
        rows: number of rows of each sample.
    """

    signal: TeacherSignal
    rows: Tensor


class Store:
    """An open store; `open_store` makes one.

    Memory does not grow with what was read: what is looked at is copied, and its pages are given back.

    Attributes:
        manifest: what the store says of itself.
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
    def fingerprints(self) -> np.ndarray:
        """Of all records, ascending: a hash's order, so the first ones are as good as drawn at random."""
        return np.concatenate(self._fingerprints)

    def fetch(self, fingerprints: Sequence[bytes] | np.ndarray) -> dict[str, Block]:
        """What the teacher said of some samples, by output; every one must be in the store, see `missing`."""
        shards, records = self._find(fingerprints)
        assert (records >= 0).all(), "a sample without a record: check `missing` before training"
        places = list(zip(shards.tolist(), records.tolist(), strict=True))
        blocks = {name: self._block(name, places) for name in self._codecs}
        for shard in set(shards.tolist()):
            self._shards[shard].release()
        return blocks

    def missing(self, fingerprints: Sequence[bytes] | np.ndarray) -> list[int]:
        """The places of those samples that have no record."""
        _, records = self._find(fingerprints)
        return np.flatnonzero(records < 0).tolist()

    def _find(self, fingerprints: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and place in it of each sample; -1 for the place of one that is not there."""
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
    """Open a finished store.

    Args:
        folder: where it lies.
        expected: fingerprints of what it is to be used for; those that are given must be the store's.
        verify: read everything once and compare checksums; False compares headers and sizes only.
        device: where the heads of kind `hidden` go.

    Raises:
        UserError: no finished store, made from something else, or damaged.
    """
    manifest = read_manifest(folder)
    check_origin(folder, manifest.origin, expected or {})
    shards = [_open(folder, manifest, entry, verify=verify) for entry in manifest.shards]
    heads = {}
    if manifest.head is not None:
        arrays = _open(folder, manifest, manifest.head, verify=verify).arrays
        dtype = manifest.spec.torch_head_dtype
        for name in manifest.spec.outputs:
            head = Head(*(as_tensor(arrays[f"{name}.{part}"].copy(), dtype) for part in ("weight", "bias")))
            heads[name] = head.to(device or torch.device("cpu"))
    return Store(manifest, shards, heads)


def _open(folder: Path, manifest: StoreManifest, entry: FileEntry, *, verify: bool) -> TensorFile:
    file = TensorFile(folder / entry.file)
    if file.seal != entry.seal or {**file.metadata, **manifest.header} != file.metadata:
        raise UserError(
            f"{file.path}: its header is not the one that {MANIFEST} lists, one of them is damaged or of "
            f"another store: copy both again"
        )
    if verify:
        file.check()
    return file
