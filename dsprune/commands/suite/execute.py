"""Execute the unfinished runs of a suite; a run that fails does not stop the others.

A method that rewinds weights (the lottery ticket) resets the weights that are large after training to their values
before it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.commands.suite.grid import Grid, Part, RunSpec
from dsprune.commands.suite.launcher import Launcher, is_finished
from dsprune.commands.suite.resolve import resolve
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Model, Recipe, dump_recipe
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.selection.complete import select_complete
from dsprune.selection.groups import update_groups
from dsprune.selection.weights import weights_to_prune
from dsprune.tasks.build import build_task
from dsprune.train.preflight import start_model
from dsprune.train.run_folder import RunFolder
from dsprune.train.run_records import read_summary
from dsprune.utils.console import say
from dsprune.utils.files import replace_folder
from dsprune.utils.randomness import seed_everything

__all__ = ["execute", "prepare_start", "save_start"]


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


def save_start(recipe: Recipe, model: Model, folder: Path) -> None:
    """Write the initial model of a training, with a head from the recipe's seed.

    Args:
        recipe: names the task and the seed.
        model: the initial model, and its changes.
        folder: model folder to make.

    Raises:
        UserError: the recipe has no task.
    """
    if recipe.task is None:
        raise recipe.lacks("training", "model", "task")
    tokenizer = load_tokenizer(model.tokenizer or model.path)
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    seed_everything(recipe.seed)
    _save(start_model(task, model, tokenizer), tokenizer, folder)


def save_ticket(recipe: Recipe, trained: Path, start: Path, folder: Path) -> None:
    """Write the model `start` with those weights set to zero whose values in `trained` are the smallest."""
    assert recipe.task is not None
    assert recipe.pruning is not None
    tokenizer = load_tokenizer(str(start))
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    model, before = task.build_model(str(trained), tokenizer), task.build_model(str(start), tokenizer)
    pruning = recipe.pruning
    tensors = weights_to_prune(model, pruning).tensors
    weights, rewound = dict(model.named_parameters()), dict(before.named_parameters())
    masks = select_complete(
        tensors,
        [weights[tensor.name] for tensor in tensors],
        update_groups(tensors, pruning, progress=1.0),
        normalized=SCOPES.get(pruning.scope).normalized,
        pattern=Pattern.parse(pruning.pattern),
    )
    with torch.no_grad():
        for tensor, mask in zip(tensors, masks, strict=True):
            rewound[tensor.name].masked_fill_(~mask, 0.0)
    _save(before, tokenizer, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model folder atomically."""

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    replace_folder(folder, write)
