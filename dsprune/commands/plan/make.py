"""What a recipe comes to, before anything runs: its timetable on a model of known size."""

from dataclasses import dataclass

import torch
from torch import nn

from dsprune.errors import UserError
from dsprune.model.layers import keep_layers
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.model.prunable import find_prunable
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.batches import BatchPlan
from dsprune.recipe import Model, Recipe, Task
from dsprune.schedule import MaskUpdate, Timetable, build_timetable
from dsprune.selection.groups import Group, update_groups
from dsprune.tasks.task import build_task

__all__ = ["Plan", "make_plan", "weightless_model"]


@dataclass(frozen=True)
class Plan:
    """A recipe laid out on a model.

    Attributes:
        recipe: the recipe.
        model_path: folder or hub name of the model.
        timetable: when what happens.
        num_examples: size of the training data, or None if the recipe does without (it counts in steps).
        num_weights: all weights of the model.
        tensors: those that are pruned; none without pruning.
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
        """Who competes at a mask update, and how many of them are pruned."""
        pruning = self.recipe.pruning
        assert pruning is not None, "without pruning there are no mask updates"
        return update_groups(self.tensors, pruning, self.timetable.progress(update))

    def num_pruned(self, update: MaskUpdate) -> int:
        """Number of zeros after a mask update."""
        return sum(group.num_pruned for group in self.groups(update))


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
