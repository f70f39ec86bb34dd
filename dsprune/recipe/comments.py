"""Write a recipe as YAML, with a comment over each field."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from dsprune.recipe.section import section_in
from dsprune.utils.documents import write_yaml

__all__ = ["commented", "first_sentence", "section_of"]

WIDTH = 100


def commented(
    values: Mapping[str, Any], section: type[BaseModel], left_out: Mapping[str, tuple[str, ...]]
) -> str:
    """Return the values of a recipe or a section as YAML, each under the first sentence of its documentation.

    Fields without a value are named at the end of their section, except those in `left_out` (by the key of the
    section), which this recipe does not use.
    """
    return "\n".join(_lines(values, section, left_out)) + "\n"


def _lines(
    values: Mapping[str, Any],
    section: type[BaseModel],
    left_out: Mapping[str, tuple[str, ...]],
    key: str = "",
) -> Iterator[str]:
    for name in (name for name in section.model_fields if name in values):
        if not key:
            yield ""
        value, inner = values[name], section_of(section, name)
        yield from _comment(first_sentence(section, name))
        if inner is not None and isinstance(value, dict):
            yield f"{name}:"
            yield from textwrap.indent("\n".join(_lines(value, inner, left_out, name)), "  ").split("\n")
        else:
            yield from write_yaml({name: value}).splitlines()
    others = [name for name in section.model_fields if name not in (*values, *left_out.get(key, ()))]
    if key and others:
        yield from _comment(f"more: {', '.join(others)}")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]


def first_sentence(section: type[BaseModel], name: str) -> str:
    """Return the first sentence of a field's documentation."""
    text = " ".join((section.model_fields[name].description or "").split())
    return text.partition(". ")[0].removesuffix(".")


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the class of a field that is a section, optional or not; None for any other field."""
    return section_in(section.model_fields[name].annotation)
