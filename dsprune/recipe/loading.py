"""From a file and overrides to a recipe; every problem in one line."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dsprune.errors import UserError
from dsprune.recipe.recipe import Recipe
from dsprune.recipe.sections import Section, Task
from dsprune.utils.shipped import shipped_folder, shipped_names
from dsprune.utils.text import did_you_mean

__all__ = ["describe", "load_recipe", "load_task", "shipped_recipes"]

S = TypeVar("S", bound=Section)


RENAMED = {"pruning.events": "pruning.updates"}
"""New names of keys by old ones, for messages."""


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


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return shipped_names("recipes")


def _read(name_or_path: str) -> tuple[str, bytes]:
    """Name and content of a recipe."""
    path = Path(name_or_path)
    if path.is_file():
        return path.stem, path.read_bytes()
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return name_or_path, shipped_folder("recipes").joinpath(f"{name_or_path}.yaml").read_bytes()
    hint = did_you_mean(name_or_path, shipped)
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


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One line with all problems: for each the dotted field, its value and the way out."""
    return "; ".join(_describe_one(problem, model) for problem in error.errors())


def _describe_one(problem: ErrorDetails, model: type[BaseModel]) -> str:
    *parents, key = (str(part) for part in problem["loc"])
    field = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        way_out = _unknown(field, key, _known_keys(model, parents))
        return f"{field}: value {short_repr(problem['input'])}: {way_out}"
    if problem["type"] == "missing":
        return f"{field}: value missing: this field is required"
    return f"{field}: value {short_repr(problem['input'])}: {_way_out(problem)}"


def _way_out(problem: ErrorDetails) -> str:
    """Pydantic's message as a rule: our own validators' text as it is, its 'Input should be' as 'must be'."""
    if problem["type"] == "model_type":
        return "must be a section with keys of its own; leave it out for the defaults"
    message = problem["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _unknown(field: str, key: str, known: list[str]) -> str:
    if field in RENAMED:
        return f"this key was renamed: use {RENAMED[field]}"
    return f"unknown key, {did_you_mean(key, known) or 'use one of ' + ', '.join(known)}".rstrip()


def _known_keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys of the section at `parents`."""
    for parent in parents:
        if parent in model.model_fields:  # else it is a key of a mapping to sections
            model = _section(model.model_fields[parent].annotation)
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel]:
    """The section in `Section`, `Section | None` or `dict[str, Section]`."""
    return next(
        kind
        for kind in (annotation, *get_args(annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    )
