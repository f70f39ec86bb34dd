"""Write model folders: from a sharded engine, or from a checkpoint that a script or a framework has saved."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsprune.checkpoint.deepspeed_files import CheckpointFiles, read_frozen, read_main_file
from dsprune.checkpoint.file_list import MODEL_LIST
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.model.compiled import plain_module, plain_name
from dsprune.model.ties import undeclared_ties
from dsprune.model.vocabulary import with_all_rows
from dsprune.ranks.agreement import on_first_rank
from dsprune.utils.files import replace_folder, replace_text
from dsprune.zero.parameters import full_state_dict

__all__ = ["copy_masks", "left_out", "model_config", "save_model_folder", "write_weights"]

CONFIG = "dsprune_model_config"
"""Key in a checkpoint's client state: the configuration of a Hugging Face model, as JSON."""

TIES = "dsprune_undeclared_ties"
"""Key in a checkpoint's client state: the names of `undeclared_ties`, as JSON."""

MODEL_FILES = (
    "model.safetensors*",
    "model-*-of-*.safetensors",
    "masks-*-of-*.safetensors",
    MANIFEST,
    MODEL_LIST,
)
"""Patterns of the files that belong to the weights of a model folder."""

LEFT_OUT = "dsprune_left_out"
"""Key in a checkpoint's client state: the name of a frozen parameter that the checkpoint does not hold."""


def save_model_folder(engine: DeepSpeedEngine, folder: Path, tokenizer: Any) -> None:
    """Write a model into a folder. Collective: every rank must call this.

    A Hugging Face model is written for `from_pretrained`; tied weights that it does not declare are stored under each
    name. For any other module the folder holds only `model.safetensors`, in which a tied weight is stored once, under
    its first name. A tokenizer is saved too. A model and masks that the folder holds are replaced; other files are
    kept.

    Raises:
        UserError: the tokenizer is not one, or the system refuses to write.
    """
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise UserError(
            f"save_model: tokenizer is a {type(tokenizer).__name__}: give the tokenizer object, as "
            f"AutoTokenizer.from_pretrained returns it"
        )
    module = plain_module(engine.module)
    gathered = full_state_dict(engine)

    def write(temporary: Path) -> None:
        assert gathered is not None
        state = with_all_rows(module, {plain_name(name): value for name, value in gathered.items()})
        if isinstance(module, PreTrainedModel):
            state.update({name: state[name].clone() for name in undeclared_ties(module)})
            module.save_pretrained(temporary, state_dict=state)
        else:
            temporary.mkdir(parents=True)
            save_file(_without_ties(state), temporary / "model.safetensors", {"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)

    on_first_rank(lambda: replace_folder(folder.absolute(), write, stale=MODEL_FILES))


def _without_ties(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    return {name: state[name].contiguous() for name in first.values()}


def model_config(module: nn.Module) -> dict[str, str]:
    """Return the entries that a checkpoint needs so that its model folder opens with `from_pretrained`."""
    module = plain_module(module)
    if not isinstance(module, PreTrainedModel):
        return {}
    config = module.config.to_dict() | {"architectures": [type(module).__name__]}
    return {CONFIG: json.dumps(config), TIES: json.dumps(undeclared_ties(module))}


def left_out(module: nn.Module) -> dict[str, str]:
    """Return the entry of a checkpoint without the frozen parameters, if there are any."""
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return {LEFT_OUT: frozen[0]} if frozen else {}


def write_weights(checkpoint: Path, folder: Path) -> None:
    """Write the weights of a tag of any ZeRO stage, in the dtype of training, with masks and configuration.

    Raises:
        UserError: the checkpoint is damaged, or does not hold a frozen weight.
    """
    main = read_main_file(checkpoint)
    if LEFT_OUT in main:
        raise UserError(
            f"{checkpoint}: {main[LEFT_OUT]} is frozen, and exclude_frozen_parameters has left it out: "
            f"save the model from the script, or give a checkpoint with all parameters"
        )
    state = _state(CheckpointFiles(checkpoint), main)
    state |= {name: state[first].clone() for name, first in json.loads(main.get(TIES, "{}")).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    if CONFIG in main:
        (folder / "config.json").write_text(main[CONFIG], encoding="utf-8")
    if (checkpoint / MANIFEST).is_file():
        copy_masks(checkpoint, folder)


def copy_masks(checkpoint: Path, folder: Path) -> None:
    """Copy the masks of a checkpoint, without the accumulators of the pruning method."""
    manifest = read_manifest(checkpoint)
    for name in (MANIFEST, *(entry.file for entry in manifest.files)):
        shutil.copy(checkpoint / name, folder)
    if manifest.accumulators:
        alone = manifest.model_copy(update={"accumulators": {}, "accumulator_files": ()})
        replace_text(folder / MANIFEST, alone.to_json())


def _state(files: CheckpointFiles, main: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state of the module, with each tied weight once."""
    frozen = read_frozen(files.folder, main["frozen_param_shapes"] or {}, main["module"])
    shapes = {name: shape for group in main["param_shapes"] or [] for name, shape in group.items()}
    module: Mapping[str, Tensor] = main["module"]
    plain = set(files.names)
    trained = {name for name in module if plain_name(name) in plain}
    tied = {module[name].data_ptr() for name in trained if module[name].numel()}
    state = {}
    for name, value in module.items():
        if name in trained:
            weights = files.views(plain_name(name))["master weights"].view(shapes.get(name, value.shape))
            state[plain_name(name)] = weights.to(value.dtype).add_(0.0).contiguous()  # -0.0 becomes +0.0
        elif name in frozen:
            state[plain_name(name)] = frozen[name]
        elif not value.numel() and name not in main["buffer_names"]:
            continue  # at stage 3, another name of a trained weight
        elif name not in (main["shared_params"] or {}) and value.data_ptr() not in tied:
            state[plain_name(name)] = value.contiguous()
    return state
