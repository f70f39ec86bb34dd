"""The complete model of a sharded engine, as a Hugging Face folder."""

from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine

from dsprune.ranks.collectives import barrier
from dsprune.utils.files import replace_folder
from dsprune.zero.weights import full_state_dict

__all__ = ["save_model_folder"]


def save_model_folder(engine: DeepSpeedEngine, folder: Path, tokenizer: Any) -> None:
    """Write a folder for `from_pretrained`, atomically. Collective: every rank must call this.

    Args:
        engine: its module is a Hugging Face model.
        folder: replaced if it exists.
        tokenizer: saved beside the model.
    """
    state = full_state_dict(engine)
    if state is not None:

        def write(temporary: Path) -> None:
            engine.module.save_pretrained(temporary, state_dict=state)
            tokenizer.save_pretrained(temporary)

        replace_folder(folder, write)
    barrier()
