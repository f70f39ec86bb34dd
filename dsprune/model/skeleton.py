"""Models without memory for their weights, to check a model before its weights are read.

The lists of weight files, `model.safetensors.index.json`, are read here too.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict

from dsprune.errors import UserError
from dsprune.model.fingerprints import local_folder
from dsprune.model.opened import COMPACT
from dsprune.utils.records import FileName, read_record
from dsprune.utils.text import first_line

__all__ = [
    "build_skeleton",
    "check_has_weights",
    "check_stored_types",
    "check_weight_indexes",
    "is_without_weights",
    "read_weight_index",
    "without_weights",
]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The weight files of transformers, in its order of search; each may be split, with a list in `FILE.index.json`."""

OF_LOADING = ("dtype", "output_loading_info", "ignore_mismatched_sizes")
"""The settings of `from_pretrained` that the configuration does not take."""

_ACTIVE: ContextVar[bool] = ContextVar("without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Make `load_model` return models on the meta device, with their weight files checked but not read."""
    token = _ACTIVE.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        _ACTIVE.reset(token)


def is_without_weights() -> bool:
    """Return whether this is inside `without_weights`."""
    return _ACTIVE.get()


def build_skeleton(auto_class: Any, path: str, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return what `auto_class.from_pretrained` would return, with the model on the meta device.

    Names and shapes of weights that are not on this machine are not checked.

    Args:
        auto_class: one of transformers' auto classes.
        path: folder of the model, or its name on the hub.
        settings: passed on to `from_pretrained`.

    Returns:
        The model, and transformers' lists of missing, unexpected and mismatched weights.

    Raises:
        UserError: the weights are missing or damaged.
    """
    of_config = {name: value for name, value in settings.items() if name not in OF_LOADING}
    model: PreTrainedModel = auto_class.from_config(AutoConfig.from_pretrained(path, **of_config))
    found: dict[str, Any] = {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}
    if files := _weight_files(path):
        stored = {name: value for file in files for name, value in _names_and_shapes(path, file).items()}
        of_loading = {name: settings[name] for name in OF_LOADING}
        load: Any = type(model).from_pretrained
        model, found = load(None, config=model.config, state_dict=stored, device_map="meta", **of_loading)
    return model, found


def check_has_weights(path: str) -> None:
    """Check that a model that is on this machine has files with weights.

    Raises:
        UserError: one is missing.
    """
    _weight_files(path)


def check_stored_types(path: str, model: PreTrainedModel) -> None:
    """Check that the files of a model hold its weights as numbers, not as the codes of a quantization.

    transformers would take the codes for weights if config.json has lost its `quantization_config`.

    Raises:
        UserError: a weight is stored as integers or in 8 bits.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    prefix = f"{model.base_model_prefix}."
    names = {name.removeprefix(prefix) for name, _ in model.named_parameters()}
    for file in _weight_files(path):
        for name, stored in _names_and_shapes(path, file).items():
            is_code = not stored.is_floating_point() or stored.itemsize < 2
            if is_code and name.removeprefix(prefix) in names:
                raise UserError(
                    f"model {path!r}: {file.name}: {name} is stored as {str(stored.dtype).removeprefix('torch.')}, as "
                    f"in a quantized model, and its config.json names no quantization: use a copy that is not quantized"
                )


def _names_and_shapes(path: str, file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file on the meta device."""
    try:
        return load_state_dict(str(file), map_location="meta")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"model {path!r}: {file.name}: {first_line(error)}: copy or download it again"
        ) from error


def _weight_files(path: str) -> list[Path]:
    """Return the files with the weights; empty if they are not downloaded yet."""
    folder = local_folder(path)
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _listed(path, index)
    if (folder / COMPACT).is_file():
        raise UserError(
            f"model {path!r}: the compact form of a model: write it in full first, with dsprune export "
            f"{shlex.quote(path)} --expand --to FOLDER, and give that folder"
        )
    if Path(path).is_dir():
        raise UserError(f"model {path!r}: no weights there: the folder needs {' or '.join(WEIGHTS)}")
    return []


def _listed(path: str, index: Path) -> list[Path]:
    names = sorted(set(read_weight_index(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"model {path!r}: {index.name} lists {missing[0]}, which is missing: copy it again")
    return [index.parent / name for name in names]


class WeightIndex(BaseModel):
    """The content of an index.

    Attributes:
        weight_map: the file of each tensor, in the folder of the index.
    """

    weight_map: dict[str, FileName]


def read_weight_index(index: Path) -> dict[str, str]:
    """Return the name of the file of each tensor.

    Raises:
        UserError: the index is damaged, or a file is in another folder.
    """
    return read_record(
        index, WeightIndex, "an index of weight files", "use another copy of the model"
    ).weight_map


def check_weight_indexes(folder: Path) -> None:
    """Check the indexes of a model folder: transformers would follow paths to other folders.

    Raises:
        UserError: see `read_weight_index`.
    """
    for index in sorted(folder.glob("*.index.json")):
        read_weight_index(index)
