"""Write a page in Markdown from a template, and its tables."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dsprune.utils.files import replace_text
from dsprune.utils.text import MISSING

__all__ = ["WIDTH", "markdown_table", "mean_cell", "wrapped", "write_markdown"]

WIDTH = 125
"""Columns of a line of prose."""

_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_ITEM = r"[-*] |\d+\. "
_PARAGRAPH = re.compile(rf"^({_ITEM})?(?![|#<!{{\s]).+(?:\n(?!\s*(?:{_ITEM})|[|#<!{{]).+)*", re.MULTILINE)
_UNBROKEN = re.compile(r"`[^`]+`|\d %|\]\([^)]+\)")


def write_markdown(template: Path, path: Path, **values: Any) -> None:
    """Fill in a template of Jinja, wrap its prose, write it, and print its path."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    replace_text(path, wrapped(environment.get_template(template.name).render(values)))
    print(f"written: {path}")


def markdown_table(head: Sequence[str], *rows: Sequence[str]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_cell(scores: Sequence[float]) -> str:
    """Return the mean of scores as a cell, with the standard deviation and the number of seeds if there are several.

    >>> mean_cell([80.0, 82.0])
    '81.0 ± 1.4 (2)'
    """
    if not scores:
        return MISSING
    spread = f" ± {statistics.stdev(scores):.1f} ({len(scores)})" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.1f}{spread}"


def wrapped(text: str) -> str:
    """Wrap the paragraphs and list items with a line over `WIDTH`; code, tables and headings stay as they are.

    >>> wrapped("- " + "word " * 30).splitlines()[1]
    '  word word word word word word'
    """
    parts = _CODE.split(text)
    return "".join(
        part if number % 2 else _PARAGRAPH.sub(_wrapped, part) for number, part in enumerate(parts)
    )


def _wrapped(paragraph: re.Match[str]) -> str:
    if max(map(len, paragraph[0].splitlines())) <= WIDTH:
        return paragraph[0]
    mark = paragraph[1] or ""
    words = " ".join(paragraph[0].removeprefix(mark).split())
    words = _UNBROKEN.sub(lambda found: found[0].replace(" ", "\0"), words)
    lines = fill(words, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
    return lines.replace("\0", " ")
