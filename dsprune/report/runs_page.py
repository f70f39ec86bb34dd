"""The report of many runs: what they have in common, what differs, the results, and published results beside them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from dsprune.report.drawing import line_style
from dsprune.report.grouping import (
    Setting,
    by_folds,
    by_target,
    by_temperature,
    differences,
    pooled,
    reference_of,
    settings_of,
)
from dsprune.report.page import Block, Code, Page, Section, Text
from dsprune.report.run_pictures import timeline_of_runs
from dsprune.report.runs import Run, find_folders, origin_of
from dsprune.report.score_pictures import against_reference, against_sparsity, against_temperature
from dsprune.report.table import MISSING, Table, number, percent

__all__ = ["SUITE", "page_of_runs", "published_sections", "published_tables", "title_of"]

SUITE = "suite.json"
"""File in a suite's folder that holds its title and the names of the published results to compare with."""


def page_of_runs(
    runs: Sequence[Run], title: str, home: Path, audits: Sequence[Text | None], extra: Sequence[Section] = ()
) -> Page:
    """Return a page with runs side by side.

    Args:
        runs: two or more.
        title: of the page.
        home: folder of the page, for links to the runs' own.
        audits: result of the audit of each; None = not audited.
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
        Section(
            "Comparison",
            (*_comparison(settings, styles), _settings_table(settings), *_folds_tables(settings)),
        ),
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
    """Yield the pictures that the runs allow, for each metric."""
    known = [setting for setting in settings if setting.scores]
    if not known:
        yield Text("No run is finished yet, so there is nothing to compare.")
    for metric in dict.fromkeys(setting.runs[0].headline for setting in known):
        measured = [setting for setting in known if setting.runs[0].headline == metric]
        pruned = [setting for setting in measured if setting.target]
        if metric is None or not pruned:
            continue
        yield against_sparsity(measured, _convention(pruned), metric, styles)
        for rivals in by_target(pruned):
            if len({setting.series for setting in rivals}) > 1:
                yield against_reference(rivals, metric)
            for family in by_temperature(rivals):
                yield against_temperature(family, metric)


def _convention(settings: Sequence[Setting]) -> str:
    """Return the convention to compare runs in: that of all weights where they prune different sets."""
    ratios = [s.sparsity("model") / s.sparsity("prunable") for s in settings if s.sparsity("prunable")]
    return "model" if ratios and max(ratios) - min(ratios) > 1e-3 else "prunable"


def _settings_table(settings: Sequence[Setting]) -> Table:
    rows = tuple(
        (
            setting.series,
            percent(setting.target) if setting.target else "dense",
            percent(setting.sparsity("prunable")),
            percent(setting.sparsity("model")),
            setting.runs[0].headline or MISSING,
            number(setting.mean),
            number(setting.spread),
            number(setting.best),
            f"{len(setting.scores)} of {len(setting.runs)}",
        )
        for setting in settings
    )
    columns = (
        "setting",
        "target",
        "of prunable",
        "of all",
        "metric",
        "mean",
        "std",
        "best",
        "seeds finished",
    )
    note = (
        "mean: of the last evaluations. std: their standard deviation over seeds, with n - 1; it needs two. best: mean "
        "of the best evaluation of each run at its target sparsity, as SMC-Bench reports it; choosing it by the same "
        "data favours it. In bold: the reference of a target."
    )
    rivals = by_target([setting for setting in settings if setting.target and setting.scores])
    references = [reference_of(group) for group in rivals]
    emphasis = frozenset(row for row, setting in enumerate(settings) if setting in references)
    return Table("settings", "Mean and spread over seeds", columns, rows, note, emphasis=emphasis)


def _folds_tables(settings: Sequence[Setting]) -> Iterator[Table]:
    """Yield the table of the cross-validated settings, if there are any."""
    rows = tuple(
        (
            f"{setting.series}, {setting.runs[0].recipe.task.name}"
            if setting.runs[0].recipe.task
            else setting.series,
            percent(setting.target) if setting.target else "dense",
            str(len({run.recipe.task.fold for run in setting.runs if run.recipe.task})),
            number(setting.mean),
            number(pooled(setting.runs, [run.score for run in setting.runs])),
            number(setting.best),
            number(pooled(setting.runs, [run.best for run in setting.runs])),
        )
        for setting in by_folds(settings)
    )
    columns = ("setting", "target", "folds", "mean", "pooled", "best, mean", "best, pooled")
    note = "pooled: rows right of all rows of the folds, as SMC-Bench reports it; best: as above."
    if rows:
        yield Table("folds", "Folds together", columns, rows, note)


def _runs_table(runs: Sequence[Run], home: Path, audits: Sequence[Text | None]) -> Table:
    rows = tuple(
        (
            run.name,
            run.state,
            str(run.recipe.seed),
            number(run.score),
            percent(run.sparsity("prunable")),
            percent(run.sparsity("model")),
            f"{run.last_step:,}",
            number(run.summary.seconds if run.summary else None, 0),
            {"good": "passed", "bad": "FAILED"}.get(audit.kind, MISSING) if audit else MISSING,
        )
        for run, audit in zip(runs, audits, strict=True)
    )
    pages = [run.path / "report.html" for run in runs]
    links = tuple(f"./{quote(relpath(page, home))}" if page.is_file() else "" for page in pages)
    columns = ("run", "state", "seed", "metric", "of prunable", "of all", "steps", "seconds", "audit")
    failed = [audit.text for audit in audits if audit is not None and audit.kind == "bad"]
    return Table("runs", "All runs", columns, rows, " ".join(failed), links)


def _differences(runs: Sequence[Run]) -> Iterator[Table]:
    """Yield the table of the recipe values that differ, if there are any."""
    found = differences(runs)
    if found:
        names = [run.name for run in runs]
        rows = tuple(zip(names, *found.values(), strict=True))
        yield Table("differences", "What differs between them", ("run", *found), rows)


def published_sections(paths: Sequence[Path]) -> Iterator[Section]:
    """Yield the section of the results that belong to the suites in some folders, if there are any."""
    names = [name for folder in find_folders(paths, SUITE) for name in _read_suite(folder)["published"]]
    if names:
        yield Section("Published", tuple(published_tables(names)))


def title_of(paths: Sequence[Path]) -> str | None:
    """Return the title of the suite, if the paths hold exactly one."""
    folders = find_folders(paths, SUITE)
    return str(_read_suite(folders[0])["title"]) if len(folders) == 1 else None


def published_tables(names: Sequence[str]) -> Iterator[Table]:
    """Yield a table per source: a row per task and method, a column per sparsity."""
    for name in dict.fromkeys(names):
        results = _published()[name]
        sparsities = sorted({sparsity for row in results["rows"] for sparsity in row["values"]})
        rows = tuple(
            (row["task"], row["method"], *(_cell(row["values"].get(sparsity)) for sparsity in sparsities))
            for row in results["rows"]
        )
        heads = ("dense" if sparsity == 0 else f"{100 * sparsity:g} %" for sparsity in sparsities)
        note = (
            f"Published, not measured here. {results['model']}; {results['metric']}. Sparsity of "
            f"{results['convention']}. Source: {results['source']}; read {results['read']}."
        )
        yield Table(f"published-{name}", f"Published: {name}", ("task", "method", *heads), rows, note)


def _cell(value: float | None) -> str:
    return MISSING if value is None else f"{value:g}"


@cache
def _published() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (files("dsprune") / "suites" / "published.yaml").read_text(encoding="utf-8")
    )
    return content


def _read_suite(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / SUITE).read_text(encoding="utf-8"))
    return content
