"""Load a recipe, or only its task section, from YAML and overrides."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from dsprune.errors import UserError
from dsprune.recipe.recipe import Recipe
from dsprune.recipe.section import Section, describe
from dsprune.recipe.task import Task
from dsprune.registry import TASKS
from dsprune.utils.documents import read_document, read_yaml
from dsprune.utils.installation import find_shipped, shipped_names
from dsprune.utils.text import did_you_mean, short

__all__ = [
    "AnyRecipe",
    "as_recipe",
    "check_recipe",
    "load_recipe",
    "load_task",
    "override",
    "override_all",
    "read_recipe",
    "recipe_text",
    "shipped_recipes",
]

S = TypeVar("S", bound=Section)

AnyRecipe: TypeAlias = Recipe | str | PathLike[str] | Mapping[str, Any]
"""A recipe, the path or name of one, or its values."""


def load_recipe(name_or_path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a file, or a shipped recipe by its name.

    Args:
        name_or_path: path of a YAML file, or name of a shipped recipe.
        overrides: `key.sub=value` each, with the value in YAML; they take precedence over the file.

    Raises:
        UserError: the recipe is missing or invalid; one line names every problem.

    Examples:
        >>> load_recipe("sentiment-90", ["pruning.sparsity=0.8"]).pruning.sparsity
        0.8
    """
    name, values = read_recipe(fspath(name_or_path))
    return _validate(Recipe, {"name": name, **values}, overrides)


def read_recipe(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the values of a recipe as written, without validation.

    Raises:
        UserError: the recipe does not exist, or the file is not a recipe.
    """
    name, text = recipe_text(name_or_path)
    values = read_yaml(text, name_or_path)
    if not isinstance(values, dict):
        raise UserError(f"{name_or_path}: value {short(values)}: a recipe is a mapping of keys to values")
    return name, values


def as_recipe(recipe: AnyRecipe | None) -> Recipe:
    """Return a recipe, loaded from its path or name, or made from its values.

    Raises:
        UserError: it is not a recipe, or it is missing or invalid.

    Examples:
        >>> as_recipe({"budget": {"steps": 100, "batch": 32}, "pruning": {"sparsity": 0.9}}).pruning.sparsity
        0.9
    """
    if isinstance(recipe, str | PathLike):
        return load_recipe(recipe)
    if isinstance(recipe, Mapping):
        return check_recipe({"name": "script", **recipe})
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"recipe: a {type(recipe).__name__}: give a Recipe, its values, or the path or name of one"
        )
    return recipe


def load_task(name: str, overrides: Sequence[str] = ()) -> Task:
    """Create a task section from the task's name and `key=value` overrides, with or without `task.` before the key.

    Raises:
        UserError: there is no such task, or the section is invalid; one line names every problem.

    Examples:
        >>> load_task("sst2", ["max_length=64"]).max_length
        64
    """
    TASKS.check(name)
    return _validate(Task, {"name": name}, [text.removeprefix("task.") for text in overrides])


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return shipped_names("recipes")


def recipe_text(name_or_path: str) -> tuple[str, bytes]:
    """Return the name and the text of a recipe.

    Raises:
        UserError: the recipe does not exist.
    """
    if (path := find_shipped("recipes", name_or_path)) is not None:
        return path.stem, read_document(path)
    beside = [str(file) for file in Path(name_or_path).parent.glob("*.yaml")]
    hint = did_you_mean(name_or_path, [*beside, *shipped_recipes()])
    raise UserError(
        f"recipe {name_or_path!r}: no such file: {hint}`dsprune new` writes one, `dsprune recipes` lists those shipped"
    )


def check_recipe(values: dict[str, Any]) -> Recipe:
    """Create a recipe from its values.

    Raises:
        UserError: the recipe is invalid; one line names every problem.
    """
    return _validate(Recipe, values, ())


def _validate(section: type[S], values: dict[str, Any], overrides: Sequence[str]) -> S:
    override_all(values, overrides)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, section)) from None


def override_all(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set values, each given as `key.sub=value`, in place.

    Raises:
        UserError: as in `override`; or the recipe's peak would hide the dense learning rate that is set.
    """
    for text in overrides:
        override(values, text)
    keys = {text.partition("=")[0].strip() for text in overrides}
    rate = values.get("learning_rate")
    if isinstance(rate, dict) and "learning_rate.dense" in keys and "learning_rate.peak" not in keys:
        dense, peak = rate["dense"], rate.get("peak")
        if None not in (dense, peak):
            raise UserError(
                f"learning_rate.dense: value {short(dense)}: has no effect beside the recipe's learning_rate.peak, "
                f"{short(peak)}: add learning_rate.peak=null"
            )


def override(values: dict[str, Any], text: str) -> None:
    """Set one value, given as `key.sub=value`, in place; an unknown key is detected by the validation that follows.

    A value such as `2:4` is text, not a number to the base of 60: no other YAML program reads it.

    Raises:
        UserError: the text has another form, or its value is not YAML.
    """
    path, equals, value = text.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not key:
        raise UserError(
            f"override {short(text)}: write key=value or section.key=value, as in pruning.sparsity=0.8"
        )
    for section in sections:
        inner = values.get(section)
        # A copy, because an alias in the file can put one mapping into two places.
        values[section] = dict(inner) if isinstance(inner, dict) else {}
        values = values[section]
    is_ratio = re.fullmatch(r"\d+:\d+", value.strip()) is not None
    values[key] = value.strip() if is_ratio else read_yaml(value, f"override {short(text)}")
