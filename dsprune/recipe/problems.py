"""Turn pydantic's validation errors into one line: for each problem the field, its value and the way out."""

from reprlib import repr as short_repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dsprune.utils.text import did_you_mean

__all__ = ["describe"]

RENAMED = {"pruning.events": "pruning.updates"}
"""Old key to new key, for messages."""


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return all problems in one line, each with its dotted field, value and way out.

    Args:
        error: raised by the validation of `model`.
        model: the section whose keys are suggested for unknown ones.
    """
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
    """Return pydantic's message as a rule; messages of dsprune's own validators stay as they are."""
    if problem["type"] == "model_type":
        return "must be a section with keys of its own; leave it out for the defaults"
    message = problem["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _unknown(field: str, key: str, known: list[str]) -> str:
    if field in RENAMED:
        return f"this key was renamed: use {RENAMED[field]}"
    return f"unknown key, {did_you_mean(key, known) or 'use one of ' + ', '.join(known)}".rstrip()


def _known_keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    """Return the keys of the section at `parents`."""
    for parent in parents:
        if parent in model.model_fields:  # otherwise it is a key of a mapping to sections
            model = _section(model.model_fields[parent].annotation)
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel]:
    """Return the section in `Section`, `Section | None` or `dict[str, Section]`."""
    return next(
        kind
        for kind in (annotation, *get_args(annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    )
