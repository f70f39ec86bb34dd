"""`dsprune export --compact` and `--expand`: a sparse model in the space of its kept weights, and back."""

import shutil
from pathlib import Path

from rich.console import Console

from dsprune.checkpoint.compact.format import Dtype, is_compact
from dsprune.checkpoint.compact.model import expand_compact
from dsprune.checkpoint.compact.writer import write_compact
from dsprune.commands.export import check_is_new, find_checkpoint, write_model
from dsprune.errors import UserError
from dsprune.masks.manifest import read_manifest
from dsprune.train.run_folder import RunFolder
from dsprune.utils.console import say
from dsprune.utils.files import replace_folder

__all__ = ["compact", "expand"]


def compact(source: Path, tag: str | None, dtype: Dtype | None, to: Path, console: Console) -> None:
    """Write the compact form of a run's checkpoint or of a model folder with masks, in one piece.

    Args:
        source: the run's folder, or the model folder.
        tag: name of a checkpoint of the run; None = the newest complete one.
        dtype: number format to round all weights to; None = as trained.
        to: folder to make.
        console: where to print.

    Raises:
        UserError: there is no such checkpoint, no mask, a file is damaged, or `to` exists already.
    """
    check_is_new(to)
    if is_compact(source):
        raise UserError(f"{source}: is compact already: give the folder of a run, or of a model with masks")
    if (source / "config.json").is_file():
        if tag is not None:
            raise UserError(f"--tag: value {tag}: {source} is a model folder: leave this out, or give a run")
        replace_folder(to, lambda temporary: write_compact(source, temporary, dtype))
    else:
        run = RunFolder(source)
        checkpoint = find_checkpoint(run, tag)
        read_manifest(checkpoint)  # so that a run without masks is refused before anything is written

        def write(temporary: Path) -> None:
            model = temporary / "model"
            write_model(run, checkpoint, model)
            write_compact(model, temporary, dtype)
            shutil.rmtree(model)

        replace_folder(to, write)
    size = sum(path.stat().st_size for path in to.iterdir())
    say(console, f"{source} exported to {to}: {size:,} bytes in all")


def expand(source: Path, to: Path, console: Console) -> None:
    """Write the model folder that a compact folder was made of, in one piece.

    Raises:
        UserError: `source` is no compact model, a file is damaged, or `to` exists already.
    """
    check_is_new(to)
    replace_folder(to, lambda temporary: expand_compact(source, temporary))
    say(console, f"{source} expanded to {to}")
