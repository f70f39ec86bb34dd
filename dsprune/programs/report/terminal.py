"""A table of a report in the terminal."""

from rich import box
from rich.table import Table as RichTable

from dsprune.programs.report.table import Table

__all__ = ["as_rich"]


def as_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown
