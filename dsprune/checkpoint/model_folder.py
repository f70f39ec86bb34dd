"""The complete model of a sharded engine, as a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsprune.model.shard import plain_name
from dsprune.model.vocabulary import with_all_rows
from dsprune.ranks.collectives import barrier
from dsprune.utils.files import replace_folder
from dsprune.zero.parameters import full_state_dict

__all__ = ["save_model_folder"]


def save_model_folder(engine: DeepSpeedEngine, folder: Path, tokenizer: Any) -> None:
    """Write a model folder, atomically. Collective: every rank must call this.

    A Hugging Face model is written for `from_pretrained`. Of any other module the folder holds `model.safetensors`
    alone, in which a tied weight stands once, under its first name.

    Args:
        engine: holds the module.
        folder: replaced if it exists.
        tokenizer: saved beside the model; None saves none.
    """
    module: nn.Module = getattr(engine.module, "_orig_mod", engine.module)  # what torch.compile wraps
    gathered = full_state_dict(engine)
    if gathered is not None:
        state = with_all_rows(module, {plain_name(name): value for name, value in gathered.items()})

        def write(temporary: Path) -> None:
            if isinstance(module, PreTrainedModel):
                module.save_pretrained(temporary, state_dict=state)
            else:
                temporary.mkdir(parents=True)
                save_file(_without_ties(state), temporary / "model.safetensors", {"format": "pt"})
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)

        replace_folder(folder, write)
    barrier()


def _without_ties(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    return {name: state[name].contiguous() for name in first.values()}
