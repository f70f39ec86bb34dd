"""`dsprune run`: run a DeepSpeed script, unchanged, with its engines pruned by a recipe."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from dsprune.checkpoint.sparse_start import MasksFrom
from dsprune.engine.frameworks import pruning
from dsprune.errors import CheckFailedError, RunFailedError, StoppedError, UserError
from dsprune.ranks.group import announce
from dsprune.recipe import Recipe
from dsprune.utils.text import percent

__all__ = ["run_script"]


def run_script(
    recipe: Recipe,
    script: Path,
    arguments: Sequence[str],
    steps_per_epoch: int | None,
    masks_from: MasksFrom | None,
) -> None:
    """Run a script as `python SCRIPT ARGUMENTS` does, inside `dsprune.pruning`.

    The arguments are the options of `dsprune run`.

    Raises:
        UserError: no engine trains.
        RunFailedError: training ended before the last mask update.
    """
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    with pruning(recipe, steps_per_epoch=steps_per_epoch, masks_from=masks_from) as engines:
        try:
            runpy.run_path(str(script), run_name="__main__")
        except (UserError, CheckFailedError, RunFailedError, StoppedError):
            raise
        except Exception as error:  # a script's error, shown like Python does
            sys.excepthook(type(error), error, error.__traceback__)
            sys.exit(1)
    for engine in engines:
        zeros = percent(engine.sparsity()["sparsity_prunable"])
        announce(f"{engine.applied_steps:,} steps, {zeros} of the prunable weights are zero")
