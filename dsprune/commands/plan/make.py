"""Plan a recipe without running it: its timetable, and the sizes of its model."""

from dataclasses import dataclass

import torch
from torch import nn

from dsprune.errors import UserError
from dsprune.model.pretrained import keep_layers, load_config, load_tokenizer
from dsprune.model.prunable import find_prunable
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.batch_order import BatchPlan
from dsprune.recipe import Model, Recipe, Task
from dsprune.schedule import MaskUpdate, Timetable, build_timetable
from dsprune.selection.groups import Group, update_groups
from dsprune.tasks.task import build_task

__all__ = ["Plan", "make_plan", "weightless_model"]


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe.

    Attributes:
        recipe: the recipe.
        model_path: folder or hub name of the model.
        timetable: its mask updates and learning rate.
        num_examples: size of the training data; None if unknown, which a recipe in steps allows.
        num_weights: number of all weights of the model.
        tensors: the prunable ones; empty without pruning.
    """

    recipe: Recipe
    model_path: str
    timetable: Timetable
    num_examples: int | None
    num_weights: int
    tensors: tuple[PrunableTensor, ...]

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights."""
        return sum(tensor.numel for tensor in self.tensors)

    def groups(self, update: MaskUpdate) -> list[Group]:
        """Return the groups that a mask update selects from, and how many weights of each are pruned."""
        pruning = self.recipe.pruning
        assert pruning is not None, "without pruning there are no mask updates"
        return update_groups(self.tensors, pruning, self.timetable.progress(update))

    def num_pruned(self, update: MaskUpdate) -> int:
        """Return the number of zeros after a mask update."""
        return sum(group.num_pruned for group in self.groups(update))


def make_plan(recipe: Recipe, world_size: int, train_examples: int | None = None) -> Plan:
    """Plan a recipe; arguments and errors as those of the command `plan`."""
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
    """Return the size of the training data, or None if it takes a download to know it."""
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
    """Return the model with the task's head, or a classifier without a task, on the meta device: without weights."""
    config = load_config(model.path)
    with torch.device("meta"):
        kind = build_task(task or Task(name="text-classification"))
        return keep_layers(kind.new_model(config), model.layers)


def _tensors(recipe: Recipe, model: nn.Module) -> tuple[PrunableTensor, ...]:
    pruning = recipe.pruning
    if pruning is None:
        return ()
    return tuple(find_prunable(model, pruning.include, pruning.exclude, pruning.sparsities))
