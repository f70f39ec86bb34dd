"""`dsprune report`: what runs did, as one page that needs no network, and as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.analyze.result import FILE as ANALYSIS
from dsprune.commands.analyze.result import read_analysis
from dsprune.commands.analyze.sections import analysis_section
from dsprune.errors import UserError
from dsprune.report.blocks import Page
from dsprune.report.many import page_of_runs
from dsprune.report.page import write_page, write_tables
from dsprune.report.published import published_sections, title_of
from dsprune.report.report import PAGE, verdict_of
from dsprune.report.runs import find_folders, read_run
from dsprune.report.single import page_of_run
from dsprune.report.table import as_rich
from dsprune.utils.console import say

__all__ = ["report"]


def report(
    paths: Sequence[Path], output: Path | None, title: str | None, audit: bool, console: Console
) -> None:
    """Write the page and the tables of some runs.

    Args:
        paths: folders of runs or analyses, or folders with such folders anywhere below.
        output: folder to write into; None = that of the one run, or `report` for several.
        title: of the page; None = the run's name, or the number of runs.
        audit: audit every run that can be.
        console: where to say what was written.

    Raises:
        UserError: there is no run at a path, or one cannot be read.
    """
    _check(paths)
    runs = [read_run(folder) for folder in find_folders(paths, "recipe.yaml")]
    analyses = [read_analysis(folder) for folder in find_folders(paths, ANALYSIS)]
    extra = [*map(analysis_section, analyses), *published_sections(paths)]
    home = output or (runs[0].path if len(runs) == 1 else Path("report"))
    home.mkdir(parents=True, exist_ok=True)
    audits = [verdict_of(run, run.path) if audit else None for run in runs]
    if not runs:
        page = Page(title or "Components", "", "", (), tuple(extra), analyses[0].origin)
    elif len(runs) == 1:
        page = page_of_run(runs[0], audits[0], extra)
    else:
        page = page_of_runs(runs, title or title_of(paths) or f"{len(runs)} runs", home, audits, extra)
    write_page(page, home / PAGE)
    files = write_tables(page, home)
    for table in page.tables():
        if table.name in ("settings", "updates"):
            console.print(as_rich(table))
    for path in (home / PAGE, *files):
        say(console, f"written: {path}")


def _check(paths: Sequence[Path]) -> None:
    for path in paths:
        if not find_folders([path], "recipe.yaml") and not find_folders([path], ANALYSIS):
            raise UserError(f"{path}: no recipe.yaml in it or below it, so no run: give the folder of a run")
