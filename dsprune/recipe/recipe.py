"""The recipe: everything that a run is told, typed and strict."""

from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from dsprune.recipe.sections import Checkpoints, Distillation, Model, Optimizer, Section, Task, Text, Tracking
from dsprune.recipe.timing import Budget, LearningRate, Pruning
from dsprune.utils.text import flatten

__all__ = ["Recipe", "dump_recipe", "recipe_schema", "settings_of"]


class Recipe(Section):
    """One run: the model, the task, how long, and what is pruned when."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    """Name of the recipe, and of its run's folder; the name of its file when left out."""

    model: Model | None = None
    """Null = a script of one's own brings the model, through `dsprune.initialize`."""

    task: Task | None = None
    """Null = a script of one's own brings the data."""

    budget: Budget
    pruning: Pruning | None = Field(default=None, validate_default=True)
    """What is pruned; null = nothing, which is fine-tuning, for a dense teacher or a baseline."""

    learning_rate: LearningRate = LearningRate()
    optimizer: Optimizer = Optimizer()
    distillation: Distillation | None = None
    """The teacher to learn from; null = none."""

    checkpoints: Checkpoints = Checkpoints()
    tracking: Tracking = Tracking()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the working weights; the optimizer's copy is fp32 always."""

    gradient_clipping: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 = no clipping."""

    deepspeed: Text = "zero2"
    """DeepSpeed config: name of a file in ds_configs, or path of a JSON file."""

    seed: int = Field(default=42, ge=0)
    """Seed of new weights, of the order of examples and of dropout."""

    timeout: float = Field(default=600.0, gt=0)
    """Seconds without any progress after which a rank takes another for dead, and ends."""

    output: Text = "runs"
    """Folder in which the run's folder is made."""

    @field_validator("pruning")
    @classmethod
    def _length_is_known(cls, pruning: Pruning | None, info: ValidationInfo) -> Pruning | None:
        budget = info.data.get("budget")
        if pruning is None and budget is not None and budget.epochs is None and budget.steps is None:
            raise ValueError(
                "no target sparsity to derive the length from: give budget.epochs or budget.steps"
            )
        return pruning


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML: `load_recipe` reads an equal recipe from it."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of recipe files, with every field's documentation, for editors that complete and check."""
    # In this mode spans' defaults are written as in a recipe.
    return Recipe.model_json_schema(mode="serialization")


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its dotted key, as `learning_rate.peak`."""
    return dict(flatten(recipe.model_dump(mode="json")))
