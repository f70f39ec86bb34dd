"""The results of a benchmark, as rows of one table."""

from collections.abc import Iterable
from typing import NamedTuple

from rich.table import Column, Table

__all__ = ["Row", "table_of", "table_with"]


class Row(NamedTuple):
    """One result.

    Attributes:
        what: the measured quantity.
        figure: the measured value.
        goal: the goal; empty = none.
        met: whether the value meets the goal.
    """

    what: str
    figure: str
    goal: str = ""
    met: bool = True


def table_of(title: str, sections: Iterable[tuple[str, list[Row]]]) -> Table:
    """Return a table of all rows, one section after the other."""
    table = Table("", "", "measured", "goal", "", title=title, title_justify="left")
    table.columns[2].justify = "right"
    for section, rows in sections:
        for number, row in enumerate(rows):
            verdict = ("met" if row.met else "MISSED") if row.goal else ""
            table.add_row("" if number else section, row.what, row.figure, row.goal, verdict)
        table.add_section()
    return table


def table_with(title: str, columns: Iterable[str]) -> Table:
    """Return a table without rows, with its columns aligned to the right."""
    return Table(*(Column(name, justify="right") for name in columns), title=title)
