"""`dsprune report`: the results of runs as one page that needs no network, and as tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dsprune.checkpoint.model_card import write_card
from dsprune.commands.analyze.page_sections import analysis_section
from dsprune.commands.analyze.result import FILE as ANALYSIS
from dsprune.commands.analyze.result import read_analysis
from dsprune.commands.suite.published import published_sections, title_of
from dsprune.errors import UserError
from dsprune.report.page import Page, Text, write_page, write_report
from dsprune.report.run_page import page_of_run
from dsprune.report.runs import Run, find_folders, read_run
from dsprune.report.runs_page import page_of_runs
from dsprune.report.table import show
from dsprune.train.run_folder import RunFolder, made_by
from dsprune.utils.console import say

__all__ = ["report", "report_run"]


def report(
    paths: Sequence[Path], output: Path | None, title: str | None, audit: bool, console: Console
) -> None:
    """Write the page and the tables of some runs.

    The arguments are the options of `dsprune report`.

    Raises:
        UserError: a path holds no run, or a run cannot be read.
    """
    for path in paths:
        if not find_folders([path], "recipe.yaml") and not find_folders([path], ANALYSIS):
            raise UserError(f"{path}: no recipe.yaml in it or below it, so no run: give the folder of a run")
    runs = [read_run(folder) for folder in find_folders(paths, "recipe.yaml")]
    analyses = [read_analysis(folder) for folder in find_folders(paths, ANALYSIS)]
    extra = (*map(analysis_section, analyses), *published_sections(paths))
    home = output or (runs[0].path if len(runs) == 1 else Path("report"))
    home.mkdir(parents=True, exist_ok=True)
    audits = [_audit(run, run.path) if audit else None for run in runs]
    if not runs:
        page = Page("Components", "", {}, extra, analyses[0].origin)
    elif len(runs) == 1:
        page = page_of_run(runs[0], audits[0], extra)
    else:
        page = page_of_runs(runs, title_of(paths) or f"{len(runs)} runs", home, audits, extra)
    if title is not None:
        page = replace(page, title=title)
    files = write_report(page, home)
    for table in page.tables():
        if table.name in ("settings", "updates"):
            show(table, console)
    for path in files:
        say(console, f"written: {path}")


def report_run(path: Path) -> None:
    """Write the page of one run and the card of its model, both with the audit of the model."""
    run, folder = read_run(path), RunFolder(path)
    audit = _audit(run, folder.model)
    write_page(page_of_run(run, audit), path)
    write_card(folder.model, made_by(folder, audit=None if audit is None else audit.text))


def _audit(run: Run, path: Path) -> Text | None:
    """Audit the folder of a run or of its model, and return the result; None if nothing was pruned."""
    if run.recipe.pruning is None:
        return None
    from dsprune.checkpoint.audit import audit_all  # imports DeepSpeed: slow

    try:
        results = list(audit_all(path))
    except UserError as error:
        return Text(f"Not audited: {error}")
    for result in results:
        if result.findings:
            return Text(f"Audit failed. {result.failure()}", "bad")
    return Text("; ".join(result.success() for result in results), "good")
