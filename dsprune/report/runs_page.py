"""The report of many runs: their common and different values, and the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dsprune.report.drawing import line_style
from dsprune.report.grouping import (
    Setting,
    by_folds,
    by_target,
    by_temperature,
    differences,
    reference_of,
    settings_of,
)
from dsprune.report.page import Block, Code, Page, Section, Text
from dsprune.report.run_pictures import timeline_of_runs
from dsprune.report.runs import Run, origin_of
from dsprune.report.score_pictures import against_reference, against_sparsity, against_temperature
from dsprune.report.table import Table, number, table_of
from dsprune.utils.text import MISSING, percent

__all__ = ["page_of_runs"]


def page_of_runs(
    runs: Sequence[Run], title: str, home: Path, audits: Sequence[Text | None], extra: Sequence[Section] = ()
) -> Page:
    """Return a page with runs side by side.

    Args:
        runs: two or more.
        title: title of the page.
        home: folder of the page, for links to the pages of the runs.
        audits: result of the audit of each run; None = not audited.
        extra: further sections.
    """
    settings = settings_of(runs)
    styles = _styles(settings)
    finished = sum(run.summary is not None for run in runs)
    facts = {
        "runs": str(len(runs)),
        "finished": str(finished),
        "settings": str(len(settings)),
        "seeds": str(len({run.recipe.seed for run in runs})),
    }
    commands = Code("Commands", "\n".join(run.command for run in runs))
    sections = (
        Section("Comparison", tuple(_comparison(settings, styles))),
        Section("Timeline", (timeline_of_runs(settings, styles),)),
        *extra,
        Section("Runs", (_runs_table(runs, home, audits), *_differences(runs), commands)),
    )
    return Page(title, _lead(runs, len(runs) - finished), facts, sections, origin_of(runs))


def _lead(runs: Sequence[Run], unfinished: int) -> str:
    models = dict.fromkeys(run.recipe.model.path for run in runs if run.recipe.model)
    tasks = dict.fromkeys(run.recipe.task.name for run in runs if run.recipe.task)
    text = f"{', '.join(models)} on {', '.join(tasks)}."
    if unfinished:
        text += f" Unfinished runs ({unfinished}) are in the tables, but not in the pictures of scores."
    return text


def _styles(settings: Sequence[Setting]) -> dict[str, dict[str, Any]]:
    """Return the style of each series, the same in all pictures; those with pruned runs come first."""
    ordered = sorted(settings, key=lambda setting: not setting.target)
    series = dict.fromkeys(setting.series for setting in ordered)
    return {name: line_style(number) for number, name in enumerate(series)}


def _comparison(settings: Sequence[Setting], styles: Mapping[str, dict[str, Any]]) -> Iterator[Block]:
    """Yield the possible pictures for each metric, and the tables of all settings."""
    known = [setting for setting in settings if setting.scores]
    if not known:
        yield Text("No run is finished yet, so there is nothing to compare.")
    references: list[Setting] = []
    for metric in dict.fromkeys(setting.runs[0].headline for setting in known):
        measured = [setting for setting in known if setting.runs[0].headline == metric]
        pruned = [setting for setting in measured if setting.target]
        if metric is None or not pruned:
            continue
        yield against_sparsity(measured, _convention(pruned), metric, styles)
        for rivals in by_target(pruned):
            references.append(reference_of(rivals))
            if len({setting.series for setting in rivals}) > 1:
                yield against_reference(rivals, metric)
            for family in by_temperature(rivals):
                yield against_temperature(family, metric)
    emphasis = frozenset(row for row, setting in enumerate(settings) if setting in references)
    title = "Mean and spread over seeds"
    repeated = [
        f" {other.path} has the recipe and the seed of {one.path}: both count."
        for setting in settings
        for one, other in setting.repeated
    ]
    note = SETTINGS_NOTE + "".join(repeated)
    yield table_of("settings", title, settings, SETTINGS, note=note, emphasis=emphasis)
    if folds := by_folds(settings):
        yield table_of("folds", "Folds together", folds, FOLDS, note=FOLDS_NOTE)


def _convention(settings: Sequence[Setting]) -> str:
    """Return the convention for comparing runs: all weights, if the runs prune different sets."""
    ratios = [s.sparsity("model") / s.sparsity("prunable") for s in settings if s.sparsity("prunable")]
    return "model" if ratios and max(ratios) - min(ratios) > 1e-3 else "prunable"


def _target(setting: Setting) -> str:
    return percent(setting.target) if setting.target else "dense"


SETTINGS: Mapping[str, Callable[[Setting], str]] = {
    "setting": lambda s: s.series,
    "target": _target,
    "of prunable": lambda s: percent(s.sparsity("prunable")),
    "of all": lambda s: percent(s.sparsity("model")),
    "metric": lambda s: s.runs[0].headline or MISSING,
    "mean": lambda s: number(s.mean if s.scores else None),
    "std": lambda s: number(s.spread),
    "best": lambda s: number(s.best if s.scores else None),
    "seeds finished": lambda s: f"{len(s.scores)} of {len(s.runs)}",
}
SETTINGS_NOTE = (
    "mean: of the last evaluations. std: their standard deviation over seeds, with n - 1; it needs two. best: mean "
    "of the best evaluation of each run at its target sparsity, as SMC-Bench reports it; choosing it by the same "
    "data favours it. In bold: the reference of a target and a metric."
)
FOLDS: Mapping[str, Callable[[Setting], str]] = {
    "setting": lambda s: f"{s.series}, {s.runs[0].recipe.task.name}" if s.runs[0].recipe.task else s.series,
    "target": _target,
    "folds": lambda s: str(len(s.folds)),
    "mean": lambda s: number(s.mean),
    "pooled": lambda s: number(s.pooled([run.score for run in s.runs])),
    "best, mean": lambda s: number(s.best),
    "best, pooled": lambda s: number(s.pooled([run.best for run in s.runs])),
}
FOLDS_NOTE = "pooled: fraction of correct rows over all folds, as SMC-Bench reports it; best: as above."
AUDIT = {"good": "passed", "bad": "FAILED"}
RUNS: Mapping[str, Callable[[tuple[Run, Text | None]], str]] = {
    "run": lambda pair: pair[0].name,
    "state": lambda pair: pair[0].state,
    "seed": lambda pair: str(pair[0].recipe.seed),
    "metric": lambda pair: number(pair[0].score),
    "of prunable": lambda pair: percent(pair[0].sparsity("prunable")),
    "of all": lambda pair: percent(pair[0].sparsity("model")),
    "steps": lambda pair: f"{pair[0].last_step:,}",
    "seconds": lambda pair: number(pair[0].summary.seconds if pair[0].summary else None, 0),
    "audit": lambda pair: AUDIT.get(pair[1].kind, MISSING) if pair[1] else MISSING,
}


def _runs_table(runs: Sequence[Run], home: Path, audits: Sequence[Text | None]) -> Table:
    pages = [run.path / "report.html" for run in runs]
    links = tuple(f"./{quote(relpath(page, home))}" if page.is_file() else "" for page in pages)
    failed = " ".join(audit.text for audit in audits if audit is not None and audit.kind == "bad")
    return table_of("runs", "All runs", zip(runs, audits, strict=True), RUNS, note=failed, links=links)


def _differences(runs: Sequence[Run]) -> Iterator[Table]:
    """Yield the table of the recipe values that differ, if there are any."""
    if found := differences(runs):
        rows = tuple(zip([run.name for run in runs], *found.values(), strict=True))
        yield Table("differences", "What differs between them", ("run", *found), rows)
