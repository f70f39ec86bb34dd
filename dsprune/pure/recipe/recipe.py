"""The recipe: everything that a run is told, typed and strict."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from dsprune.errors import UserError
from dsprune.pure.recipe.problems import describe
from dsprune.pure.recipe.sections import (
    Checkpoints,
    Distillation,
    Model,
    Optimizer,
    Section,
    Task,
    Text,
    Tracking,
)
from dsprune.pure.recipe.timing import Budget, LearningRate, Pruning

__all__ = ["Recipe", "dump_recipe", "load_recipe", "load_task", "recipe_schema", "shipped_recipes"]

S = TypeVar("S", bound=Section)

_SHIPPED = files("dsprune") / "recipes"


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


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or by name one that is shipped.

    Args:
        name_or_path: path of a YAML file, or the name of a shipped recipe.
        overrides: `key.sub=value` each, the value as in YAML; they win over the file.

    Raises:
        UserError: one line with every problem of the recipe.

    Examples:
        >>> load_recipe("sentiment-90", ["pruning.sparsity=0.8"]).pruning.sparsity
        0.8
    """
    name, text = _read(name_or_path)
    values = _parse(text, name_or_path)
    if not isinstance(values, dict):
        raise UserError(f"{name_or_path}: value {values!r}: a recipe is a mapping of keys to values")
    return _validate(Recipe, {"name": name, **values}, overrides)


def load_task(name: str, overrides: Sequence[str] = ()) -> Task:
    """The task section alone, from a name and `key=value` overrides.

    Raises:
        UserError: one line with every problem.

    Examples:
        >>> load_task("sst2", ["max_length=64"]).max_length
        64
    """
    return _validate(Task, {"name": name}, overrides)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML: `load_recipe` reads an equal recipe from it."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of recipe files, with every field's documentation, for editors that complete and check."""
    # In this mode spans' defaults are written as in a recipe.
    return Recipe.model_json_schema(mode="serialization")


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))


def _read(name_or_path: str) -> tuple[str, bytes]:
    """Name and content of a recipe."""
    path = Path(name_or_path)
    if path.is_file():
        return path.stem, path.read_bytes()
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return name_or_path, _SHIPPED.joinpath(f"{name_or_path}.yaml").read_bytes()
    close = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"recipe {name_or_path!r}: no such file: {hint}the shipped recipes are {', '.join(shipped)}"
    )


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, such as 2024-13-45
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _validate(section: type[S], values: dict[str, Any], overrides: Sequence[str]) -> S:
    for override in overrides:
        _override(values, override)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, section)) from None


def _override(values: dict[str, Any], override: str) -> None:
    """Set one value, in place; a key that does not exist is found by the validation that follows."""
    path, equals, text = override.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not key:
        raise UserError(
            f"override {override!r}: write key=value or section.key=value, as in pruning.sparsity=0.8"
        )
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[key] = _parse(text, f"override {override!r}")
