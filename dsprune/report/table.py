"""A table that can be shown anywhere: on a page, in Markdown, as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable

__all__ = ["MISSING", "Table", "as_rich", "percent"]

MISSING = "-"
"""What stands where there is no value."""


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first column names a row, the others are numbers to be compared.

    Attributes:
        name: of its CSV file.
        title: what it shows.
        columns: their heads.
        rows: as many cells each as there are columns.
        note: what a reader must know to read it right.
        links: for each row where its first cell leads to, or "".
        emphasis: numbers of the rows that matter most.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    links: tuple[str, ...] = ()
    emphasis: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title

    def markdown(self) -> str:
        """The table in GitHub's Markdown, with title and note."""
        align = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"### {self.title}", "", *map(_line, [self.columns, align, *self.rows]), ""]
        return "\n".join([*lines, self.note, ""] if self.note else lines)

    def csv(self) -> str:
        """The columns and rows as RFC 4180 has it; a missing value is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([["" if cell == MISSING else cell for cell in row] for row in self.rows])
        return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent.

    Examples:
        >>> percent(0.8961), percent(None)
        ('89.61 %', '-')
    """
    return MISSING if value is None else f"{value:.{digits}%}".replace("%", " %")


def as_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown
