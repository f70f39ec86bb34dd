"""The file of a rank in a checkpoint: its random states, and tensors that differ from rank to rank."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.ranks.group import current_ranks
from dsprune.utils.files import replace_file
from dsprune.utils.randomness import random_state
from dsprune.utils.text import first_line

__all__ = ["read_rank_state", "save_rank_state"]


def save_rank_state(folder: Path, extra: Mapping[str, Tensor]) -> None:
    """Write this rank's random states and tensors into the folder of a tag, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu() for name, value in extra.items()} | random_state()
    replace_file(_path(folder), lambda temporary: save_file(state, temporary))


def read_rank_state(folder: Path) -> dict[str, Tensor] | None:
    """Read this rank's file; None if the checkpoint is from another number of ranks or another program.

    Raises:
        UserError: the file is damaged.
    """
    path = _path(folder)
    if not path.exists():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}): use another checkpoint") from error


def _path(folder: Path) -> Path:
    ranks = current_ranks()
    return folder / f"rank-{ranks.rank:05d}-of-{ranks.world_size:05d}.safetensors"
