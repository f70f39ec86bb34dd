"""`dsprune slurm-scripts`: the batch scripts, to edit them for a cluster."""

import shutil
from pathlib import Path

from rich.console import Console

from dsprune.errors import UserError
from dsprune.utils.console import say
from dsprune.utils.shipped import shipped_folder

__all__ = ["copy_scripts"]


def copy_scripts(folder: Path, console: Console) -> None:
    """Copy the shipped batch scripts to a new folder, and print how to use them.

    Raises:
        UserError: the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists: name a new folder")
    shutil.copytree(shipped_folder("slurm"), folder)
    say(console, f"edit what is marked EDIT in {folder}, then: export DSPRUNE_SLURM={folder.resolve()}")
