"""Resuming from a damaged checkpoint as `dsprune train` does, in an engine that is made once."""

import functools
from pathlib import Path

from rich.console import Console

from dsprune.engine.engine import PruningEngine
from dsprune.ranks.ranks import current_ranks, find_ranks
from dsprune.recipe import load_recipe
from dsprune.train.metrics import Meter
from dsprune.train.preflight import preflight
from dsprune.train.resume import find_start_point, restore, run_folder
from dsprune.train.setup import assemble
from dsprune.zero.launch import join_ranks

__all__ = ["resume"]


def resume(path: Path, run: Path, checkpoint: Path | None) -> None:
    """Load the newest good checkpoint into the engine of a recipe.

    Args:
        path: the recipe of the run.
        run: the run's folder.
        checkpoint: what `--resume` names, if anything.

    Raises:
        UserError: no checkpoint is good.
    """
    recipe = load_recipe(str(path), [f"name={run.name}", f"output={run.parent}"])
    start = find_start_point(recipe, run_folder(recipe, checkpoint), checkpoint)
    engine = _engine(path)
    model, meter = Path(recipe.model.path if recipe.model else ""), Meter(engine.device)
    restore(engine, meter, start, model, None, current_ranks(), Console())
    engine.sparsity()


@functools.cache
def _engine(path: Path) -> PruningEngine:
    recipe, ranks = load_recipe(str(path)), find_ranks()
    prepared = preflight(recipe, ranks)
    join_ranks(ranks, recipe.timeout)
    return assemble(recipe, prepared, ranks, Console()).engine
