"""What each rank keeps for itself in a checkpoint: its random generators, and what a program adds."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.ranks.ranks import current_ranks
from dsprune.utils.files import replace_file
from dsprune.utils.randomness import random_state

__all__ = ["read_rank_state", "save_rank_state"]


def save_rank_state(folder: Path, extra: Mapping[str, Tensor]) -> None:
    """Write this rank's file into the folder of a tag."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu() for name, value in extra.items()} | random_state()
    replace_file(_path(folder), lambda temporary: save_file(state, temporary))


def read_rank_state(folder: Path) -> dict[str, Tensor] | None:
    """What this rank wrote; None where another number of ranks did, or another program."""
    path = _path(folder)
    return load_file(path) if path.is_file() else None


def _path(folder: Path) -> Path:
    ranks = current_ranks()
    return folder / f"rank-{ranks.rank:05d}-of-{ranks.world_size:05d}.safetensors"
