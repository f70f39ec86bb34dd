"""A recipe as YAML with a comment above each field, from the documentation of the schema."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from dsprune.utils.documents import write_yaml

__all__ = ["commented", "first_sentence", "section_of"]

WIDTH = 100


def commented(
    values: Mapping[str, Any], section: type[BaseModel], left_out: Mapping[str, tuple[str, ...]]
) -> str:
    """Return the values as YAML, each below the first sentence of its documentation.

    Args:
        values: of a recipe or of a section, as in YAML.
        section: the class of the recipe or of the section.
        left_out: fields of each section, by its key, that are of no use for this recipe. The others that have no
            value are named at the end of the section.
    """
    return "\n".join(_lines(values, section, left_out)) + "\n"


def _lines(
    values: Mapping[str, Any],
    section: type[BaseModel],
    left_out: Mapping[str, tuple[str, ...]],
    key: str = "",
) -> Iterator[str]:
    for name in (name for name in section.model_fields if name in values):
        if not key and values[name] is not None:
            yield ""
        value, inner = values[name], section_of(section, name)
        yield from comment(first_sentence(section, name), WIDTH)
        if inner is not None and isinstance(value, dict):
            yield f"{name}:"
            yield from textwrap.indent("\n".join(_lines(value, inner, left_out, name)), "  ").split("\n")
        else:
            yield from write_yaml({name: value}).splitlines()
    others = [name for name in section.model_fields if name not in (*values, *left_out.get(key, ()))]
    if key and others:
        yield from comment(f"more: {', '.join(others)}", WIDTH)


def comment(text: str, width: int) -> list[str]:
    """Return a text as lines of a comment."""
    return [f"# {line}" for line in textwrap.wrap(text, width - 2)]


def first_sentence(section: type[BaseModel], name: str) -> str:
    """Return the first sentence of a field's documentation."""
    text = " ".join((section.model_fields[name].description or "").split())
    return text.partition(". ")[0].removesuffix(".")


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the class of a field that is a section, optional or not; None for any other field."""
    annotation = section.model_fields[name].annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
