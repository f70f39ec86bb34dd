"""`dsprune plan`: what a recipe would do and take, from the model's config alone. Runs nothing."""

from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from dsprune.distributed.data import BatchPlan
from dsprune.errors import UserError
from dsprune.programs.plan.data import Plan
from dsprune.programs.plan.picture import draw_plan
from dsprune.programs.plan.tables import print_plan
from dsprune.pure.prunable import find_prunable
from dsprune.pure.recipe import Model, Recipe, Task
from dsprune.pure.schedule import build_timetable
from dsprune.pure.shard import PrunableTensor
from dsprune.tasks.layers import keep_layers
from dsprune.tasks.pretrained import load_config, load_tokenizer
from dsprune.tasks.registry import build_task

__all__ = ["make_plan", "plan", "weightless_model"]


def plan(
    recipe: Recipe,
    world_size: int,
    stage: int | None,
    train_examples: int | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Print what a recipe would do and take.

    Args:
        recipe: the recipe.
        world_size: number of ranks.
        stage: ZeRO stage to show the memory of; None = all of them.
        train_examples: size of the training data; None = count the recipe's local file, as it is cut into examples.
        plot: PNG or SVG file to draw sparsity and learning rate in; None = none.
        console: where to print.

    Raises:
        UserError: the parts of the recipe do not fit together, or epochs cannot be counted.
    """
    made = make_plan(recipe, world_size, train_examples)
    if plot is not None:
        draw_plan(made, plot)  # first: it may be refused
    print_plan(made, world_size, range(4) if stage is None else [stage], console)
    if plot is not None:
        console.print(f"Picture: {plot}", markup=False, soft_wrap=True)


def make_plan(recipe: Recipe, world_size: int, train_examples: int | None = None) -> Plan:
    """Lay a recipe out; arguments and errors as `plan`."""
    if recipe.model is None:
        raise UserError(
            "model.path: value missing: a plan needs the folder or hub name of a model (its config only)"
        )
    num_examples = _num_examples(recipe, recipe.model, train_examples)
    timetable = build_timetable(
        recipe.pruning,
        recipe.learning_rate,
        recipe.budget,
        None if num_examples is None else _steps_per_epoch(recipe, world_size, num_examples),
    )
    model = weightless_model(recipe.model, recipe.task)
    return Plan(
        recipe=recipe,
        model_path=recipe.model.path,
        timetable=timetable,
        num_examples=num_examples,
        num_weights=sum(parameter.numel() for parameter in model.parameters()),
        tensors=_tensors(recipe, model),
    )


def _num_examples(recipe: Recipe, model: Model, given: int | None) -> int | None:
    """Size of the training data, where it can be known without downloading them."""
    settings = recipe.task
    if given is None and settings is not None and (settings.train or settings.folder):
        task = build_task(settings)
        if task.cuts_rows:
            tokenizer = load_tokenizer(model.tokenizer or model.path)
            return len(task.for_tokenizer(tokenizer).prepare("train", tokenizer))
        given = len(task.load("train"))
    limit = None if settings is None else settings.max_train
    return given if given is None or limit is None else min(given, limit)


def _steps_per_epoch(recipe: Recipe, world_size: int, num_examples: int) -> int:
    budget = recipe.budget
    micro_batch = budget.micro_batch or max(1, budget.batch // world_size)
    return BatchPlan(num_examples, budget.batch, micro_batch, world_size, recipe.seed).steps_per_epoch


def weightless_model(model: Model, task: Task | None) -> nn.Module:
    """The model with the task's head, without memory for its weights; without a task, with a classifier."""
    config = load_config(model.path)
    with torch.device("meta"):
        kind = build_task(task or Task(name="text-classification"))
        return keep_layers(kind.new_model(config), model.layers)


def _tensors(recipe: Recipe, model: nn.Module) -> tuple[PrunableTensor, ...]:
    pruning = recipe.pruning
    if pruning is None:
        return ()
    return tuple(find_prunable(model, pruning.include, pruning.exclude, pruning.sparsities))
