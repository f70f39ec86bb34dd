"""The recipe: everything that a run is told, typed and strict."""

from dsprune.pure.recipe.ramp import Ramp
from dsprune.pure.recipe.recipe import (
    Recipe,
    dump_recipe,
    load_recipe,
    load_task,
    recipe_schema,
    shipped_recipes,
)
from dsprune.pure.recipe.sections import Checkpoints, Distillation, Model, Optimizer, Task, Tracking
from dsprune.pure.recipe.span import Span
from dsprune.pure.recipe.timing import Budget, LearningRate, Pruning

__all__ = [
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
    "Task",
    "Tracking",
    "dump_recipe",
    "load_recipe",
    "load_task",
    "recipe_schema",
    "shipped_recipes",
]
