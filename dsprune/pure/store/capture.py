"""Making a store: shard after shard, by any number of writers, killed and taken up again at any point."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsprune.errors import UserError
from dsprune.pure.distill.signal import Head
from dsprune.pure.files import replace_text
from dsprune.pure.store.manifest import (
    HEADS,
    MANIFEST,
    FileEntry,
    StoreManifest,
    read_manifest,
    shard_name,
)
from dsprune.pure.store.plan import StorePlan
from dsprune.pure.store.spec import StoreSpec
from dsprune.pure.store.tensor_file import TensorFile, write_tensors

__all__ = ["Begun", "begin_store", "begun_store", "finish_store", "missing_shards"]

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
