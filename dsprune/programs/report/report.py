"""`dsprune report`: what runs did, as one page that needs no network, and as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from dsprune.errors import UserError
from dsprune.programs.report.blocks import Text
from dsprune.programs.report.many import page_of_runs
from dsprune.programs.report.page import write_page, write_tables
from dsprune.programs.report.runs import Run, find_folders, read_run
from dsprune.programs.report.single import page_of_run
from dsprune.programs.report.table import Table

__all__ = ["report", "report_run"]

PAGE = "report.html"


def report(
    paths: Sequence[Path], output: Path | None, title: str | None, audit: bool, console: Console
) -> None:
    """Write the page and the tables of some runs.

    Args:
        paths: folders of runs, or folders with such folders anywhere below.
        output: folder to write into; None = that of the one run, or `report` for several.
        title: of the page; None = the run's name, or the number of runs.
        audit: audit every run that can be.
        console: where to say what was written.

    Raises:
        UserError: there is no run at a path, or one cannot be read.
    """
    runs = [read_run(folder) for folder in _folders(paths)]
    home = output or (runs[0].path if len(runs) == 1 else Path("report"))
    home.mkdir(parents=True, exist_ok=True)
    audits = [_verdict(run, run.path) if audit else None for run in runs]
    if len(runs) == 1:
        page = page_of_run(runs[0], audits[0])
    else:
        page = page_of_runs(runs, title or f"{len(runs)} runs", home, audits)
    write_page(page, home / PAGE)
    files = write_tables(page, home)
    for table in page.tables():
        if table.name in ("settings", "events"):
            console.print(_rich(table))
    for path in (home / PAGE, *files):
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def report_run(path: Path) -> None:
    """Write the page of one run into its folder, with the audit of its model."""
    run = read_run(path)
    write_page(page_of_run(run, _verdict(run, path / "model")), path / PAGE)


def _folders(paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        if not find_folders([path], "recipe.yaml"):
            raise UserError(f"{path}: no recipe.yaml in it or below it, so no run: give the folder of a run")
    return find_folders(paths, "recipe.yaml")


def _verdict(run: Run, path: Path) -> Text | None:
    from dsprune.programs.report.audits import verdict  # imports DeepSpeed, which not every report needs

    return verdict(path) if run.recipe.pruning is not None else None


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown
