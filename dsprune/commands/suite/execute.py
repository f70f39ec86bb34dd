"""Execute the unfinished runs of a suite; a run that fails does not stop the others."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.suite.grid import Grid, Part, RunSpec
from dsprune.commands.suite.launcher import Launcher
from dsprune.commands.suite.resolve import resolve
from dsprune.commands.suite.rewind import save_start, save_ticket
from dsprune.errors import UserError
from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.train.records import read_summary
from dsprune.train.run_folder import RunFolder
from dsprune.utils.console import say

__all__ = ["execute", "prepare_start"]


def execute(parts: Sequence[Part], num_ranks: int, console: Console) -> list[str]:
    """Execute the runs of some parts, one after the other.

    Args:
        parts: the parts.
        num_ranks: number of processes of each run.
        console: where to print the result of each run.

    Returns:
        The errors of the runs that failed.

    Raises:
        StoppedError: a run was stopped with a checkpoint.
    """
    todo = [(part.grid, run) for part in parts for run in part.runs]
    errors = []
    for number, (grid, run) in enumerate(todo, start=1):
        grid.output.mkdir(parents=True, exist_ok=True)
        try:
            outcome = _execute_run(run, grid, Launcher(grid.output, num_ranks))
        except UserError as error:
            errors.append(str(error))
            outcome = f"failed: {error}"
        say(console, f"{number}/{len(todo)} {run.name}: {outcome}")
    return errors


def _execute_run(run: RunSpec, grid: Grid, launcher: Launcher) -> str:
    """Execute one run unless it is finished; return its metric, or `kept`.

    Raises:
        UserError: the run failed, or the run before it has no model.
    """
    folder = RunFolder(grid.output / run.name)
    recipe = resolve(run, grid, launcher)
    if folder.summary.exists():
        _check_same(folder, recipe)
        return "kept"
    arguments = prepare_start(run, grid, recipe)
    launcher.run("train", run.name, dump_recipe(recipe), *arguments)
    summary = read_summary(folder.summary)
    metrics = {} if summary is None else summary.metrics
    return next((f"{metric} {value:.4f}" for metric, value in metrics.items()), "no metric")


def _check_same(folder: RunFolder, recipe: Recipe) -> None:
    if load_recipe(str(folder.recipe)) != recipe:
        raise UserError(
            f"{folder.path}: was made with another recipe: give another --output, or remove this folder"
        )


def prepare_start(run: RunSpec, grid: Grid, recipe: Recipe) -> list[str]:
    """Write the model that a round of iterative pruning starts from; return arguments for `dsprune train`."""
    assert recipe.model is not None
    folder = Path(recipe.model.path)
    if run.start is None:
        return []
    if run.rewound is None:
        if not folder.exists() and grid.base.model is not None:
            save_start(recipe, grid.base.model, folder)
        return []
    if not run.rewound.exists():
        raise UserError(
            f"{run.name}: the round before it, {run.rewound.parent.name}, has no model: run it first"
        )
    if not folder.exists():
        save_ticket(recipe, run.rewound, run.start, folder)
    return ["--masks-from", "zeros"]
