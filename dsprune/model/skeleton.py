"""Models without memory for their weights, to check all of a model before its weights are read.

The lists of weight files, `model.safetensors.index.json`, are read here too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel

from dsprune.errors import UserError
from dsprune.model.fingerprints import local_folder
from dsprune.utils.records import FileName, read_record
from dsprune.utils.text import first_line

__all__ = [
    "build_skeleton",
    "check_weight_indexes",
    "is_without_weights",
    "read_weight_index",
    "without_weights",
]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The files in which transformers looks for weights, in its order; each may be several, listed in `FILE.index.json`."""

WRAPPERS = ("module.", "_orig_mod.")
"""How the names of weights begin in modules that DistributedDataParallel and torch.compile wrap."""

_ACTIVE: ContextVar[bool] = ContextVar("without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Have `load_model` return models on the meta device, with their weight files checked but not read."""
    token = _ACTIVE.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        _ACTIVE.reset(token)


def is_without_weights() -> bool:
    """Return whether this is inside `without_weights`."""
    return _ACTIVE.get()


def build_skeleton(auto_class: Any, path: str, **settings: Any) -> PreTrainedModel:
    """Return the model that `auto_class.from_pretrained` would return, on the meta device.

    Weights that are not on this machine are not checked.

    Raises:
        UserError: the weights are missing, damaged, or of another shape.
    """
    config, others = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **settings)
    model: PreTrainedModel = auto_class.from_config(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in _stored_shapes(path).items():
        if name.startswith(WRAPPERS) and name not in shapes:
            raise UserError(
                f"model {path!r}: the weight {name} is named as in a wrapped module, and transformers would not find "
                "it: save the module that is inside of the wrapper"
            )
        if shapes.get(name, shape) != shape and not others.get("ignore_mismatched_sizes"):
            raise UserError(
                f"model {path!r}: the weight {name} has the shape {list(shape)} in its file and {list(shapes[name])} "
                "by its configuration and the task: choose a model of this task"
            )
    return model


def _stored_shapes(path: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes in the headers of safetensors files; nothing for weights in other files, or elsewhere."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(path):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as tensors:
                    shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"model {path!r}: {file.name}: {first_line(error)}: copy or download it again"
                ) from error
    return shapes


def _weight_files(path: str) -> list[Path]:
    """Return the files with the weights; none if they are still to be downloaded."""
    folder = local_folder(path)
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _listed(path, index)
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
    """Check the indexes of a model folder, whose paths transformers would follow out of it.

    Raises:
        UserError: see `read_weight_index`.
    """
    for index in sorted(folder.glob("*.index.json")):
        read_weight_index(index)
