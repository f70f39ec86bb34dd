"""A table for a page, a terminal, Markdown or CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console

from dsprune.utils.console import cell, empty_table, print_table
from dsprune.utils.text import MISSING, printable

__all__ = ["Table", "as_lines", "markdown_text", "number", "show", "table_of"]

T = TypeVar("T")

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a formula in a spreadsheet."""

NUMBER = re.compile(r"[-+][\d.,]+(?:e[-+]?\d+)?(?: %| [a-zA-Z]+)?")


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first column names the row, the others are numbers to be compared.

    Attributes:
        name: name of its CSV file.
        title: its subject.
        columns: headings of the columns.
        rows: cells of each row, one per column.
        note: note for readers.
        links: target of each row's first cell, or "".
        emphasis: numbers of the most important rows.
        words: whether the cells are words, which are aligned to the left in a terminal, not numbers.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    links: tuple[str, ...] = ()
    emphasis: frozenset[int] = frozenset()
    words: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, with title and note."""
        align = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"### {markdown_text(self.title)}", "", *map(_line, [self.columns, align, *self.rows]), ""]
        return "\n".join([*lines, self.note, ""] if self.note else lines)

    def csv(self) -> str:
        """Return columns and rows as CSV (RFC 4180); a missing value is an empty cell, and no cell is a formula."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(map(_inert, self.columns))
        writer.writerows([["" if cell == MISSING else _inert(cell) for cell in row] for row in self.rows])
        return text.getvalue()


def _inert(cell: str) -> str:
    """Return a cell that is not a formula in a spreadsheet: an apostrophe marks it as text."""
    return f"'{cell}" if cell.startswith(FORMULA) and not NUMBER.fullmatch(cell) else cell


def table_of(
    name: str, title: str, items: Iterable[T], columns: Mapping[str, Callable[[T], str]], **options: Any
) -> Table:
    """Return a table with a row for each item; `columns` gives the cell of an item by heading."""
    rows = tuple(tuple(cell_of(item) for cell_of in columns.values()) for item in items)
    return Table(name, title, tuple(columns), rows, **options)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"


def markdown_text(text: str) -> str:
    """Escape a text for Markdown, in one line and without HTML."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a given number of digits after the point, or `MISSING` for None."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def show(table: Table, console: Console) -> None:
    """Print the table in a terminal or a log, the important rows in bold."""
    shown = empty_table(cell(table.title))
    for number, column in enumerate(table.columns):
        is_number = number > 0 and not table.words
        shown.add_column(
            cell(column),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=table.words and number == 0,  # users type the names
            min_width=max((len(row[number]) for row in table.rows if is_number), default=None),
        )
    for number, row in enumerate(table.rows):
        shown.add_row(*map(cell, row), style="bold" if number in table.emphasis else None)
    print_table(console, shown)


def as_lines(table: Table) -> list[str]:
    """Return the table as lines of plain text; no cell is truncated."""
    rows = (table.columns, *table.rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return [table.title, *(f"  {line.rstrip()}" for line in lines), ""]
