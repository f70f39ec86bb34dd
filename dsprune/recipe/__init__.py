"""The recipe: all settings of a run, typed and validated."""

from dsprune.recipe.loading import AnyRecipe, as_recipe, load_recipe, load_task, shipped_recipes
from dsprune.recipe.rate import LearningRate
from dsprune.recipe.recipe import Recipe, dump_recipe, recipe_schema
from dsprune.recipe.sections import Checkpoints, Distillation, Model, Optimizer, Tracking
from dsprune.recipe.span import Ramp, Span
from dsprune.recipe.task import Task
from dsprune.recipe.timing import Budget, Pruning, Start

__all__ = [
    "AnyRecipe",
    "Budget",
    "Checkpoints",
    "Distillation",
    "LearningRate",
    "Model",
    "Optimizer",
    "Pruning",
    "Ramp",
    "Recipe",
    "Span",
    "Start",
    "Task",
    "Tracking",
    "as_recipe",
    "dump_recipe",
    "load_recipe",
    "load_task",
    "recipe_schema",
    "shipped_recipes",
]
