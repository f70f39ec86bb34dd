"""Write a store: shard after shard, by any number of writers, killed and resumed at any point."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from dsprune.distillation.signal import Head
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.store.fingerprint import FINGERPRINT
from dsprune.distillation.store.format import (
    HEADS,
    MANIFEST,
    FileEntry,
    StoreManifest,
    StoreSpec,
    read_manifest,
    shard_name,
)
from dsprune.distillation.store.plan import StorePlan
from dsprune.distillation.store.tensor_file import TensorFile, write_tensors
from dsprune.errors import UserError
from dsprune.utils.files import replace_text

__all__ = ["Begun", "ShardWriter", "begin_store", "begun_store", "finish_store", "missing_shards"]


class ShardWriter:
    """Collects the records of one shard, batch by batch, in whatever order they are computed.

    Attributes:
        samples: indices in the dataset of the shard's records.
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
        """Keep what the teacher said of some records.

        Args:
            records: places in `samples`.
            outputs: for each output the rows of these records, one record after the other: logits, or for
                kind `hidden` the input of the last linear layer.

        Raises:
            UserError: some values are no finite numbers in the type of the store.
        """
        for name, codec in self._codecs.items():
            offsets = self._offsets[name]
            places = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in records])
            assert len(outputs[name]) == len(places), (name, len(outputs[name]), len(places))
            for key, rows in codec.encode(outputs[name]).items():
                self._columns[name][key][torch.from_numpy(places)] = rows.cpu()
        self._is_put[list(records)] = True

    def save(self, folder: Path) -> None:
        """Write the shard. A shard that is there already must be the same.

        Raises:
            UserError: there is another one.
        """
        assert self._is_put.all(), (
            f"{int((~self._is_put).sum())} records of shard {self._number} were not put"
        )
        fingerprints = self._plan.fingerprints[self._plan.records(self._number)]
        tensors = {
            "fingerprint": torch.from_numpy(fingerprints.view(np.uint8).reshape(-1, FINGERPRINT.itemsize))
        }
        for name, columns in self._columns.items():
            tensors[f"{name}.offsets"] = torch.from_numpy(self._offsets[name])
            tensors |= {f"{name}.{key}": tensor for key, tensor in columns.items()}
        header = {**self._plan.header, "shard": self._number}
        write_tensors(folder / shard_name(self._number), tensors, header)


_TENSORS = re.compile(r"(shard-\d+|head)\.safetensors")


# What a writer leaves that is killed: under `replace_file`'s name, or the one that safetensors itself writes to.
_TEMPORARY = re.compile(rf"\.({_TENSORS.pattern}|{re.escape(MANIFEST)})\.\d+\.tmp|\.tmp[A-Za-z0-9]{{6}}")


@dataclass(frozen=True)
class Begun:
    """What a folder says of the store in it, finished or not.

    Attributes:
        spec: what is stored, and how.
        origin: fingerprints of what it is made from.
        finished: digest of the plan, once the manifest is there.
    """

    spec: StoreSpec
    origin: Mapping[str, str]
    finished: str | None = None


def begun_store(folder: Path) -> Begun | None:
    """What is known of the store in a folder; None before the first shard.

    Raises:
        UserError: the manifest or the first shard is damaged.
    """
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        return Begun(manifest.spec, manifest.origin, manifest.plan)
    shard = next((path for path in sorted(folder.glob("*")) if _TENSORS.fullmatch(path.name)), None)
    if shard is None:
        return None
    header = TensorFile(shard).metadata
    try:
        return Begun(StoreSpec.model_validate(header["spec"]), header["origin"])
    except (LookupError, TypeError, ValidationError) as error:
        raise UserError(f"{shard}: not a store's file: give a new or empty folder") from error


def begin_store(folder: Path, plan: StorePlan) -> None:
    """Make the folder, or take it up where an earlier capture of the same plan left it.

    What killed writers left under temporary names is removed, so nobody may be writing yet.

    Raises:
        UserError: the folder belongs to another plan, or holds something else.
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
            raise UserError(f"{path}: not a store's file: give `dsprune teacher` a new or empty folder")
    for path in leftovers:
        path.unlink()


def missing_shards(folder: Path, plan: StorePlan, shards: Iterable[int] | None = None) -> list[int]:
    """The shards that are still to be written, out of some or all.

    Raises:
        UserError: a shard is there, but damaged or of another plan.
    """
    missing = []
    for shard in range(plan.num_shards) if shards is None else shards:
        path = folder / shard_name(shard)
        if path.exists():
            _open(path, plan).check()
        else:
            missing.append(shard)
    return missing


def finish_store(folder: Path, plan: StorePlan, heads: Mapping[str, Head]) -> None:
    """Write the heads, then the manifest, when every shard is in place.

    Args:
        folder: where `ShardWriter` saved the shards.
        plan: what they were made by.
        heads: for kind `hidden`, the last layer of each output; empty for the others.

    Raises:
        UserError: a shard is missing, damaged or of another plan.
    """
    manifest = StoreManifest(
        **plan.header,
        shards=tuple(_entry(folder / shard_name(shard), plan) for shard in range(plan.num_shards)),
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
    write_tensors(folder / HEADS, tensors, plan.header)
    return _entry(folder / HEADS, plan)


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
