"""Write the compact form of a model folder that has masks."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dsprune.checkpoint.audit import audit_folder
from dsprune.checkpoint.compact.format import COMPACT, CompactManifest, Dtype, carried_files, weight_file
from dsprune.checkpoint.file_list import record_files
from dsprune.errors import UserError
from dsprune.masks.bits import unpack
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.masks.mask_files import read_complete_masks
from dsprune.model.model_files import ModelFiles
from dsprune.model.pretrained import load_config
from dsprune.model.shard import Shard
from dsprune.utils.dtypes import DTYPES
from dsprune.utils.files import replace_text

__all__ = ["write_compact"]


def write_compact(model: Path, folder: Path, dtype: Dtype | None = None) -> None:
    """Write the compact form of a model folder that passes `dsprune audit`, one weight file at a time.

    All floating-point tensors are rounded to `dtype`; None does not change them.

    Raises:
        UserError: the folder has no masks or is damaged, an invariant does not hold, or a value does not fit.
    """
    audit = audit_folder(model)
    if audit.findings:
        raise UserError(f"{audit.failure()}: export another checkpoint")
    masks = read_manifest(model)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in model.iterdir() if path.is_file() and path.name[0] != ".")
    for name in carried_files(names, masks):
        shutil.copy(model / name, folder)
    if dtype is not None and (model / "config.json").is_file():
        config = load_config(str(model))
        config.dtype = DTYPES[dtype]
        config.save_pretrained(folder)
    _write_weights(model, folder, dtype)
    files = record_files(folder.iterdir())
    replace_text(folder / COMPACT, CompactManifest(dtype=dtype, files=files).model_dump_json(indent=1))


def _write_weights(model: Path, folder: Path, dtype: Dtype | None) -> None:
    masks = read_complete_masks(model, read_manifest(model))
    pruned = {shard.tensor.name: (shard, bits) for shard, bits in zip(masks.shards, masks.bits, strict=True)}
    source = ModelFiles(model)
    if other := [name for name in pruned if not source.stores(name)]:
        raise UserError(
            f"{model}: transformers stores {other[0]} under other names, which the compact form does not know: "
            f"give the model folder away as it is"
        )
    by_file = source.names_by_file()
    for number, names in enumerate(by_file.values(), start=1):
        tensors = {name: source.tensor(name) for name in names}
        for name in tensors.keys() & pruned.keys():
            tensors[name] = _kept(model, tensors[name], *pruned[name])
        if dtype is not None:
            tensors = {name: _rounded(name, tensor, dtype) for name, tensor in tensors.items()}
        save_file(tensors, folder / weight_file("compact", number, len(by_file)), metadata={"format": "pt"})


def _kept(model: Path, tensor: Tensor, shard: Shard, bits: Tensor) -> Tensor:
    name, shape = shard.tensor.name, shard.tensor.shape
    if tensor.shape != shape:
        raise UserError(
            f"{model}: {name} has shape {tuple(tensor.shape)} there and {shape} in {MANIFEST}: "
            "the masks are of another model"
        )
    return tensor.view(-1)[unpack(bits, shard.numel)]


def _rounded(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(DTYPES[dtype]) + 0.0  # small negative values become +0.0, not -0.0
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):
        largest = torch.finfo(rounded.dtype).max
        raise UserError(
            f"--dtype: value {dtype}: {name} has values beyond {largest:g}: use another, or leave --dtype out"
        )
    return rounded
