"""The report of many runs: what they have in common, what differs, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from os.path import relpath
from pathlib import Path

from dsprune.report.blocks import Block, Code, Fact, Key, Page, Picture, Section, Text
from dsprune.report.compare import (
    against_reference,
    against_sparsity,
    against_temperature,
    reference_of,
    temperature_of,
)
from dsprune.report.drawing import QUIET, SERIES, colour_of, new_figure, svg_of, tidy
from dsprune.report.origin import command_of, origin_of
from dsprune.report.runs import Run
from dsprune.report.settings import Setting, differences, flat, settings_of
from dsprune.report.table import MISSING, Table, percent

__all__ = ["page_of_runs"]


def page_of_runs(
    runs: Sequence[Run], title: str, home: Path, audits: Sequence[Text | None], extra: Sequence[Section] = ()
) -> Page:
    """Runs side by side.

    Args:
        runs: two or more.
        title: of the page.
        home: folder of the page, for links to the runs' own.
        audits: what the audit says of each; None = it was not asked.
        extra: sections that others add.
    """
    settings = settings_of(runs)
    finished = sum(run.summary is not None for run in runs)
    facts = (
        Fact(str(len(runs)), "runs"),
        Fact(str(finished), "finished"),
        Fact(str(len(settings)), "settings"),
        Fact(str(len({run.recipe.seed for run in runs})), "seeds"),
    )
    numbers = _numbers(settings)
    comparison = list(_comparison(settings, numbers))
    sections = [
        Section("Comparison", (*comparison, _settings_table(settings))),
        Section("Timeline", (_timeline(runs, settings, numbers),)),
        *extra,
        Section("Runs", (_runs_table(runs, home, audits), *_differences(runs), _commands(runs))),
    ]
    return Page(title, "", _lead(runs, finished), facts, tuple(sections), origin_of(runs))


def _lead(runs: Sequence[Run], finished: int) -> str:
    models = dict.fromkeys(run.recipe.model.path for run in runs if run.recipe.model)
    tasks = dict.fromkeys(run.recipe.task.name for run in runs if run.recipe.task)
    left = len(runs) - finished
    text = f"{', '.join(models)} on {', '.join(tasks)}."
    if left:
        text += f" {left} of the runs did not come to the end: tables show them, pictures of scores do not."
    return text


def _numbers(settings: Sequence[Setting]) -> dict[str, int]:
    """A number for each series, the same in all pictures; those with pruned runs come first."""
    ordered = sorted(settings, key=lambda setting: not setting.target)
    return {name: number for number, name in enumerate(dict.fromkeys(s.series for s in ordered))}


def _comparison(settings: Sequence[Setting], numbers: Mapping[str, int]) -> Iterator[Block]:
    """The pictures that the runs are good for, of each metric by itself."""
    for metric in dict.fromkeys(setting.runs[0].headline for setting in settings):
        known = [s for s in settings if s.runs[0].headline == metric and s.mean is not None]
        if metric is None or not known:
            continue
        pruned = [setting for setting in known if setting.target]
        if pruned:
            yield against_sparsity(known, _convention(pruned), metric, numbers)
        for _, group in groupby(sorted(pruned, key=lambda s: s.target), key=lambda s: s.target):
            rivals = list(group)
            if len({setting.series for setting in rivals}) > 1:
                yield against_reference(rivals, metric)
            warm = [setting for setting in rivals if temperature_of(setting) is not None]
            for family in _families_by_temperature(warm):
                yield against_temperature(family, metric)
    if not any(setting.scores for setting in settings):
        yield Text("No run has come to its end yet, so there is nothing to compare.")


def _convention(settings: Sequence[Setting]) -> str:
    """The axis on which runs can be compared: where they prune different sets, that of all weights."""
    ratios = [s.sparsity("model") / s.sparsity("prunable") for s in settings if s.sparsity("prunable")]
    return "model" if ratios and max(ratios) - min(ratios) > 1e-3 else "prunable"


def _families_by_temperature(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that differ in the temperature alone, three or more of them."""
    families: dict[str, list[Setting]] = {}
    for setting in settings:
        rest = {
            key: value
            for key, value in flat(setting.runs[0]).items()
            if key not in ("name", "seed", "distillation.temperature") and not key.startswith("tracking.")
        }
        families.setdefault(str(rest), []).append(setting)
    return [family for family in families.values() if len({temperature_of(s) for s in family}) > 2]


def _settings_table(settings: Sequence[Setting]) -> Table:
    references = _references(settings)
    rows = tuple(
        (
            setting.series,
            percent(setting.target) if setting.target else "dense",
            percent(setting.sparsity("prunable")),
            percent(setting.sparsity("model")),
            setting.runs[0].headline or MISSING,
            MISSING if setting.mean is None else f"{setting.mean:.4f}",
            MISSING if setting.spread is None else f"{setting.spread:.4f}",
            f"{len(setting.scores)} of {len(setting.runs)}",
        )
        for setting in settings
    )
    columns = ("setting", "target", "of prunable", "of all", "metric", "mean", "std", "seeds finished")
    note = "std: standard deviation over seeds, with n - 1; it needs two. In bold: the reference of a target."
    emphasis = frozenset(number for number, setting in enumerate(settings) if setting in references)
    return Table("settings", "Mean and spread over seeds", columns, rows, note, emphasis=emphasis)


def _references(settings: Sequence[Setting]) -> list[Setting]:
    known = sorted((s for s in settings if s.target and s.mean is not None), key=lambda s: s.target)
    return [reference_of(list(group)) for _, group in groupby(known, key=lambda s: s.target)]


def _timeline(runs: Sequence[Run], settings: Sequence[Setting], numbers: Mapping[str, int]) -> Picture:
    """Sparsity, learning rate, loss and metric of all runs, over one another."""
    panels = {"sparsity_prunable": "sparsity", "learning_rate": "learning rate", "loss": "loss"}
    if len({run.headline for run in runs}) == 1 and runs[0].headline:
        panels[f"validation_{runs[0].headline}"] = runs[0].headline
    figure = new_figure(8, 1.45 * len(panels) + 0.35)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, label) in zip(grid, panels.items(), strict=True):
        tidy(axes)
        shape = "steps-post" if label == "sparsity" else "default"
        for setting in settings:
            style = colour_of(numbers[setting.series])
            for run in setting.runs:
                steps, values = _points(run, name)
                dot = "o" if len(steps) == 1 else ""  # a line of one point is not seen
                axes.plot(steps, values, lw=1, alpha=0.7, drawstyle=shape, marker=dot, ms=3.5, **style)
        axes.set_ylabel(label, color=QUIET, fontsize=8.5)
    grid[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    grid[1].yaxis.get_offset_text().set(color=QUIET, fontsize=8)
    grid[-1].set_xlabel("optimizer step", color=QUIET, fontsize=8.5)
    keys = tuple(Key(f"series-{number % len(SERIES)}", name) for name, number in numbers.items())
    return Picture(svg_of(figure, "all runs timeline"), "A line a run.", keys, origin_of(runs))


def _points(run: Run, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a line; the learning rate is taken from the timetable where there is one."""
    peak = run.recipe.learning_rate.peak
    if name != "learning_rate" or run.timetable is None or peak is None:
        return run.series(name)
    steps = [step for step in run.timetable.lr_corners() if step <= run.last_step]
    return steps, [peak * run.timetable.lr_multiplier(step) for step in steps]


def _runs_table(runs: Sequence[Run], home: Path, audits: Sequence[Text | None]) -> Table:
    rows, links = [], []
    for run, audit in zip(runs, audits, strict=True):
        seconds = run.summary["seconds"] if run.summary else None
        rows.append(
            (
                run.name,
                run.state,
                str(run.recipe.seed),
                MISSING if run.score is None else f"{run.score:.4f}",
                percent(run.sparsity("prunable")),
                percent(run.sparsity("model")),
                f"{run.last_step:,}",
                MISSING if seconds is None else f"{seconds:,.0f}",
                {"good": "holds", "bad": "FAILED"}.get(audit.kind, MISSING) if audit else MISSING,
            )
        )
        page = run.path / "report.html"
        links.append(relpath(page, home) if page.is_file() else "")
    columns = ("run", "state", "seed", "metric", "of prunable", "of all", "steps", "seconds", "audit")
    failed = [audit.text for audit in audits if audit is not None and audit.kind == "bad"]
    return Table("runs", "All runs", columns, tuple(rows), " ".join(failed), links=tuple(links))


def _differences(runs: Sequence[Run]) -> Iterator[Table]:
    found = differences(runs)
    if found:
        rows = tuple(
            (run.name, *(values[place] for values in found.values())) for place, run in enumerate(runs)
        )
        yield Table("differences", "What differs between them", ("run", *found), rows)


def _commands(runs: Sequence[Run]) -> Code:
    return Code("Commands", "\n".join(command_of(run) for run in runs))
