"""The base class of the sections of a recipe, and the types of common fields."""

import os
import re
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from dsprune.registry import Registry
from dsprune.utils.text import control_character, did_you_mean, short

__all__ = [
    "LARGEST", "Count", "Fraction", "Glob", "Named", "Place", "Positive", "Section", "Sparsity", "Text", "describe",
    "section_in",
]  # fmt: skip

RENAMED = {"pruning.events": "pruning.updates"}
"""Old key to new key, for messages."""


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return all problems of a validation in one line, each with its dotted field, value and way out.

    An unknown key is compared with the keys of `model`, which was validated.
    """
    return "; ".join(_describe_one(problem, model) for problem in error.errors())


def _describe_one(problem: ErrorDetails, model: type[BaseModel]) -> str:
    *parents, key = (str(part) for part in problem["loc"])
    field = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        way_out = _unknown(field, key, _known_keys(model, parents))
        return f"{field}: value {short(problem['input'])}: {way_out}"
    if problem["type"] == "missing":
        return f"{field}: value missing: this field is required"
    return f"{field}: value {short(problem['input'])}: {_way_out(problem)}"


def _way_out(problem: ErrorDetails) -> str:
    """Return pydantic's message as a rule; messages of dsprune's validators are unchanged."""
    if problem["type"] == "model_type":
        return "must be a section with keys of its own; leave it out for the defaults"
    if problem["type"] == "tuple_type":
        return "must be a list, such as [a, b]"
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
            model = section_in(model.model_fields[parent].annotation) or model
    return list(model.model_fields)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in `Model`, `Model | None` or `dict[str, Model]`; None if there is none."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


LARGEST = 2**32 - 1
"""Largest number in a recipe, unless a field has a smaller limit."""


def _without_control(text: str) -> str:
    if (found := control_character(text)) is not None:
        raise ValueError(f"holds the control character {found!r}: leave it out")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_control)]
"""A text of one line that is not empty."""


def _expanded(text: str) -> str:
    path = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 - the name of a model on the hub is no Path
    if (unset := re.search(r"\$([A-Za-z_]\w*|\{[^}]*\})", path)) is not None:
        raise ValueError(f"there is no environment variable {unset[0]}: set it, or write the path")
    return path


Place = Annotated[Text, AfterValidator(_expanded)]
"""A path, or a name in place of a path; `~` and environment variables are expanded."""
Glob = Text
"""A glob pattern over the names of parameters, which must match the complete name."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Sparsity = Annotated[float, Field(gt=0, lt=1)]
"""A sparsity to reach."""
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
"""A number above 0."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
"""A whole number above 0."""


class Section(BaseModel):
    """Base class of all sections. It is frozen; an unknown key is an error, and so is a value of another type.

    A text or a boolean is not a number, and a number with a fraction is not an integer. A list is a tuple.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Named:
    """Annotation of a text field that holds a name of a registry.

    Attributes:
        registry: the valid names, for validation and for the JSON schema.
    """

    registry: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.registry)}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.problem(name))
        return name
