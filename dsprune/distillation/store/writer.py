"""Write a store shard by shard, with any number of writers, which may be killed and resume at any point."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from dsprune.distillation.signal import Head
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.files import as_column
from dsprune.distillation.store.format import (
    HEAD_FILE,
    INDEX_FILE,
    MANIFEST,
    FileEntry,
    StoreManifest,
    StoreSpec,
    read_manifest,
    shard_name,
)
from dsprune.distillation.store.index import write_index
from dsprune.distillation.store.sizes import StorePlan
from dsprune.distillation.store.tensor_file import TensorFile, write_tensors
from dsprune.errors import UserError
from dsprune.utils.files import replace_text

__all__ = ["ExistingStore", "ShardWriter", "begin_store", "find_store", "finish_store", "missing_shards"]

_TENSORS = re.compile(r"(shard-\d+|head|index)\.safetensors")

# Left by a killed writer: names that `replace_file` uses, and those that safetensors itself writes to.
_TEMPORARY = re.compile(rf"\.({_TENSORS.pattern}|{re.escape(MANIFEST)})\.\d+\.tmp|\.tmp[A-Za-z0-9]{{6}}")


@dataclass(frozen=True)
class ExistingStore:
    """The properties of a complete or partial store, from its files.

    Attributes:
        spec: the specification of the store.
        origin: fingerprints of its inputs.
    """

    spec: StoreSpec
    origin: Mapping[str, str]


def find_store(folder: Path) -> ExistingStore | None:
    """Return the properties of a complete or partial store in a folder; None if there is no shard.

    Raises:
        UserError: the manifest or the first shard is damaged.
    """
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        return ExistingStore(manifest.spec, manifest.origin)
    shard = next((path for path in sorted(folder.glob("*")) if _TENSORS.fullmatch(path.name)), None)
    if shard is None:
        return None
    header = TensorFile(shard).metadata
    try:
        return ExistingStore(StoreSpec.model_validate(header["spec"]), header["origin"])
    except (LookupError, TypeError, ValidationError) as error:
        raise UserError(f"{shard}: not a file of a store: give a new or empty folder") from error


def begin_store(folder: Path, plan: StorePlan) -> None:
    """Make the folder, or check that it holds a part of a store of the same plan.

    Temporary files of killed writers are removed, so no other process may be writing yet.

    Raises:
        UserError: the folder holds a store of another plan, or other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    leftovers = []
    for path in sorted(folder.iterdir()):
        if path.name == MANIFEST:
            _check_plan(path, read_manifest(folder).plan, plan)
        elif _TENSORS.fullmatch(path.name):
            _open(path, plan)
        elif _TEMPORARY.fullmatch(path.name):
            leftovers.append(path)
        else:
            raise UserError(f"{path}: not a file of a store: give `dsprune teacher` a new or empty folder")
    for path in leftovers:
        path.unlink()


def missing_shards(folder: Path, plan: StorePlan) -> list[int]:
    """Return the shards of a plan that are not written yet.

    Raises:
        UserError: an existing shard is damaged or of another plan.
    """
    missing = []
    for shard in range(plan.num_shards):
        path = folder / shard_name(shard)
        if path.exists():
            _open(path, plan).check()
        else:
            missing.append(shard)
    return missing


class ShardWriter:
    """Collects the records of one shard in any order, and writes the shard.

    Attributes:
        samples: `[records]`, index in the dataset of the sample of each record.
    """

    def __init__(self, plan: StorePlan, number: int) -> None:
        self._plan, self._number = plan, number
        records = plan.records(number)
        self.samples = plan.samples[records]
        self._offsets = {
            name: np.concatenate([[0], np.cumsum(rows[records])]) for name, rows in plan.rows.items()
        }
        self._codecs = {name: codec_for(plan.spec, output) for name, output in plan.spec.outputs.items()}
        self._columns = {
            name: {
                key: torch.empty(int(self._offsets[name][-1]), *column.shape, dtype=column.dtype)
                for key, column in codec.columns.items()
            }
            for name, codec in self._codecs.items()
        }
        self._is_put = np.zeros(len(self.samples), dtype=bool)

    def put(self, records: Sequence[int], outputs: Mapping[str, Tensor]) -> None:
        """Add the teacher's outputs for some records.

        Args:
            records: positions in `samples`.
            outputs: for each output the rows of these records, one record after the other: logits, `[rows, classes]`,
                or for kind `hidden` the input of the last linear layer, `[rows, hidden]`.

        Raises:
            UserError: some values are not finite in the type of the store.
        """
        for name, codec in self._codecs.items():
            places = self._rows(name, np.asarray(records, dtype=np.int64))
            assert len(outputs[name]) == len(places), (name, len(outputs[name]), len(places))
            for key, rows in codec.encode(outputs[name]).items():
                self._columns[name][key][torch.from_numpy(places)] = rows.cpu()
        self._is_put[np.asarray(records, dtype=np.int64)] = True

    def _rows(self, name: str, records: np.ndarray) -> np.ndarray:
        """Return the places of the rows of some records, one record after the other."""
        begins, ends = self._offsets[name][records], self._offsets[name][records + 1]
        counts = ends - begins
        return np.repeat(ends - np.cumsum(counts), counts) + np.arange(counts.sum())

    def save(self, folder: Path) -> None:
        """Write the shard; an existing file must have the same content.

        Raises:
            UserError: the file exists with other content.
        """
        assert self._is_put.all(), (
            f"{int((~self._is_put).sum())} records of shard {self._number} were not put"
        )
        fingerprints = self._plan.fingerprints[self._plan.records(self._number)]
        tensors = {"fingerprint": as_column(fingerprints)}
        for name, columns in self._columns.items():
            tensors[f"{name}.offsets"] = torch.from_numpy(self._offsets[name])
            tensors |= {f"{name}.{key}": tensor for key, tensor in columns.items()}
        header = {**self._plan.header, "shard": self._number}
        write_tensors(folder / shard_name(self._number), tensors, header)


def finish_store(folder: Path, plan: StorePlan, heads: Mapping[str, Head]) -> None:
    """Write the heads and the index, then the manifest. All shards must be written before.

    Args:
        folder: the store.
        plan: its plan.
        heads: for kind `hidden`, the last layer of each output; empty for other kinds.

    Raises:
        UserError: a shard is missing, damaged or of another plan.
    """
    paths = [folder / shard_name(shard) for shard in range(plan.num_shards)]
    shards = tuple(_entry(path, plan) for path in paths)
    write_index(folder / INDEX_FILE, plan.fingerprints, plan.bounds, paths, shards, plan.header)
    manifest = StoreManifest(
        **plan.header,
        shards=shards,
        index=_entry(folder / INDEX_FILE, plan),
        head=_write_heads(folder, plan, heads) if plan.spec.kind == "hidden" else None,
    )
    replace_text(folder / MANIFEST, manifest.model_dump_json(indent=1))


def _write_heads(folder: Path, plan: StorePlan, heads: Mapping[str, Head]) -> FileEntry:
    assert heads.keys() == plan.spec.outputs.keys(), (heads.keys(), plan.spec.outputs.keys())
    dtype = plan.spec.torch_head_dtype
    tensors = {}
    for name, head in heads.items():
        tensors[f"{name}.weight"] = head.weight.detach().cpu().to(dtype)
        tensors[f"{name}.bias"] = head.bias.detach().cpu().to(dtype)
    write_tensors(folder / HEAD_FILE, tensors, plan.header)
    return _entry(folder / HEAD_FILE, plan)


def _entry(path: Path, plan: StorePlan) -> FileEntry:
    return FileEntry(file=path.name, seal=_open(path, plan).seal)


def _open(path: Path, plan: StorePlan) -> TensorFile:
    file = TensorFile(path)
    _check_plan(path, file.metadata.get("plan"), plan)
    return file


def _check_plan(path: Path, found: object, plan: StorePlan) -> None:
    if found != plan.digest:
        raise UserError(
            f"{path}: of plan {str(found)[:12]}, and this one is {plan.digest[:12]} (other data, teacher or "
            f"settings); nothing is overwritten: give another folder"
        )
