"""What is wrong with a recipe, in the words of the person who wrote it."""

import difflib
from reprlib import repr as short_repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

__all__ = ["describe"]


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One line with all problems: for each the dotted field, its value and the way out."""
    return "; ".join(_describe_one(problem, model) for problem in error.errors())


def _describe_one(problem: ErrorDetails, model: type[BaseModel]) -> str:
    *parents, key = (str(part) for part in problem["loc"])
    field = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        return f"{field}: value {short_repr(problem['input'])}: {_unknown(key, _known_keys(model, parents))}"
    if problem["type"] == "missing":
        return f"{field}: value missing: this field is required"
    return f"{field}: value {short_repr(problem['input'])}: {_way_out(problem)}"


def _way_out(problem: ErrorDetails) -> str:
    """Pydantic's message as a rule: our own validators' text as it is, its 'Input should be' as 'must be'."""
    if problem["type"] == "model_type":
        return "must be a section with keys of its own; leave it out for the defaults"
    message = problem["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("String should", "must")


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return (
        f"unknown key, did you mean {close[0]!r}?" if close else f"unknown key, use one of {', '.join(known)}"
    )


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
