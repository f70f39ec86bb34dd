"""`dsprune report`: what runs did, as one page that needs no network, and as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dsprune.errors import UserError
from dsprune.programs.analyze.result import FILE as ANALYSIS
from dsprune.programs.analyze.result import read_analysis
from dsprune.programs.analyze.sections import analysis_section
from dsprune.programs.report.blocks import Page, Text
from dsprune.programs.report.many import page_of_runs
from dsprune.programs.report.page import write_page, write_tables
from dsprune.programs.report.published import published_sections, title_of
from dsprune.programs.report.runs import Run, find_folders, read_run
from dsprune.programs.report.single import page_of_run
from dsprune.programs.report.terminal import as_rich

__all__ = ["PAGE", "report", "report_run"]

PAGE = "report.html"


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
    audits = [_verdict(run, run.path) if audit else None for run in runs]
    if not runs:
        page = Page(title or "Components", "", "", (), tuple(extra), analyses[0].origin)
    elif len(runs) == 1:
        page = page_of_run(runs[0], audits[0], extra)
    else:
        page = page_of_runs(runs, title or title_of(paths) or f"{len(runs)} runs", home, audits, extra)
    write_page(page, home / PAGE)
    files = write_tables(page, home)
    for table in page.tables():
        if table.name in ("settings", "events"):
            console.print(as_rich(table))
    for path in (home / PAGE, *files):
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def report_run(path: Path) -> None:
    """Write the page of one run into its folder, with the audit of its model."""
    run = read_run(path)
    write_page(page_of_run(run, _verdict(run, path / "model")), path / PAGE)


def _check(paths: Sequence[Path]) -> None:
    for path in paths:
        if not find_folders([path], "recipe.yaml") and not find_folders([path], ANALYSIS):
            raise UserError(f"{path}: no recipe.yaml in it or below it, so no run: give the folder of a run")


def _verdict(run: Run, path: Path) -> Text | None:
    from dsprune.programs.report.audits import verdict  # imports DeepSpeed, which not every report needs

    return verdict(path) if run.recipe.pruning is not None else None
