"""`dsprune report`: what runs did, as one page that needs no network, and as tables."""

from pathlib import Path

from dsprune.report.blocks import Text
from dsprune.report.origin import verdict
from dsprune.report.page import write_page
from dsprune.report.runs import Run, read_run
from dsprune.report.single import page_of_run

__all__ = ["PAGE", "report_run", "verdict_of"]

PAGE = "report.html"


def report_run(path: Path) -> None:
    """Write the page of one run into its folder, with the audit of its model."""
    run = read_run(path)
    write_page(page_of_run(run, verdict_of(run, path / "model")), path / PAGE)


def verdict_of(run: Run, path: Path) -> Text | None:
    """Audit a run in a folder of its; None where nothing was pruned."""
    return verdict(path) if run.recipe.pruning is not None else None
