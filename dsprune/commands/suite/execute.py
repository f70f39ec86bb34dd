"""Execute the unfinished runs of a suite; a run that fails does not stop the others.

A method that rewinds weights (the lottery ticket) resets the weights that are large after training to their values
before it.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.suite.grid import Grid, Part, RunSpec
from dsprune.commands.suite.launcher import Launcher, is_finished
from dsprune.commands.suite.resolve import resolve
from dsprune.errors import UserError
from dsprune.recipe import Recipe, dump_recipe
from dsprune.train.run_folder import RunFolder
from dsprune.train.run_records import read_summary
from dsprune.utils.console import say, starting

__all__ = ["execute", "prepare_start"]


def execute(parts: Sequence[Part], num_ranks: int, console: Console) -> list[str]:
    """Execute the runs of some parts, one after the other.

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
    if is_finished(folder, recipe):
        return "kept"
    arguments = prepare_start(run, grid, recipe)
    launcher.run("train", run.name, dump_recipe(recipe), *arguments)
    summary = read_summary(folder.summary)
    metrics = {} if summary is None else summary.metrics
    return next((f"{metric} {value:.4f}" for metric, value in metrics.items()), "no metric")


def prepare_start(run: RunSpec, grid: Grid, recipe: Recipe) -> list[str]:
    """Write the initial model of a round of iterative pruning; return arguments for `dsprune train`."""
    if run.start is None:
        return []
    with starting():
        from dsprune.commands.suite.starts import save_start, save_ticket

    assert recipe.model is not None
    folder = Path(recipe.model.path)
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
