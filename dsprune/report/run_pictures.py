"""Runs over their steps: sparsity, learning rate, loss, the headline metric, and the parts of the loss."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsprune.recipe.span import Ramp
from dsprune.report.drawing import (
    INK,
    SERIES,
    draw_rate,
    draw_sparsity,
    new_panels,
    plot,
    shade_phases,
    svg_of,
)
from dsprune.report.grouping import Setting
from dsprune.report.page import Cell, HeatMap, Picture, Section, Text
from dsprune.report.runs import Run, origin_of
from dsprune.schedule import Timetable

__all__ = ["distillation_sections", "layer_map", "timeline_of_run", "timeline_of_runs"]

SPARSITY, RATE, LOSS, SCORE = SERIES[1], SERIES[0], SERIES[3], SERIES[2]


def timeline_of_run(run: Run) -> Picture:
    """Draw the timetable as thin lines, and the recorded values as dots and thick lines."""
    figure, panels = _panels(run.headline)
    if run.timetable is not None:
        shade_phases(panels, run.timetable)
        draw_sparsity(panels[0], run.timetable, color=SPARSITY, lw=0.9)
        if run.recipe.learning_rate.peak is not None:
            draw_rate(panels[1], run.timetable, run.recipe.learning_rate.peak, color=RATE, lw=0.9)
    steps, values = run.series("sparsity_prunable")
    panels[0].plot(steps, [100 * value for value in values], ".", ms=4, color=SPARSITY)
    panels[0].set_ylim(-3, 100)
    steps, values = run.series("learning_rate")
    panels[1].plot([step - 1 for step in steps], values, ".", ms=4, color=RATE)  # logged after the step
    plot(panels[2], *run.series("loss"), color=LOSS, lw=1.6)
    for axes in panels[1:3]:
        axes.set_ylim(bottom=0)
    legend = {"sparsity": SPARSITY, "learning rate": RATE, "training loss": LOSS}
    if run.headline is not None:
        _draw_score(panels[3], run)
        legend[f"validation {run.headline}"] = SCORE
    caption = "Thin lines are the timetable, dots and thick lines the run."
    if run.summary is None:
        caption += f" The dotted line is the last known step, {run.last_step:,}."
        for axes in panels if run.last_step else []:
            axes.axvline(run.last_step, color=INK, lw=0.8, ls=":")
    panels[0].set_xlim(0, run.timetable.total_steps if run.timetable else max(1, run.last_step))
    return Picture(svg_of(figure, f"{run.path}: timeline"), caption, origin_of([run]), legend)


def _panels(metric: str | None) -> tuple[Figure, list[Axes]]:
    labels = ["sparsity, %", "learning rate", "loss", *([metric] if metric else [])]
    return new_panels(labels, "optimizer step", height=1.45 * len(labels) + 0.35)


def _draw_score(axes: Axes, run: Run) -> None:
    steps, values = run.evaluations
    axes.plot(steps, values, color=SCORE, lw=1.6, marker="o", ms=3.5, clip_on=False)
    if values:
        margin = max(0.02, 0.15 * (max(values) - min(values)))
        axes.set_ylim(min(values) - margin, max(values) + margin)


def timeline_of_runs(settings: Sequence[Setting], styles: Mapping[str, dict[str, Any]]) -> Picture:
    """Draw all runs in one figure, each in the style of its series."""
    runs = [run for setting in settings for run in setting.runs]
    metrics = {run.headline for run in runs}
    figure, panels = _panels(metrics.pop() if len(metrics) == 1 else None)
    for setting in settings:
        for run in setting.runs:
            _draw_run(panels, run, {"lw": 1, "alpha": 0.7, "ms": 3.5, **styles[setting.series]})
    legend = {name: style["color"] for name, style in styles.items()}
    return Picture(svg_of(figure, "timeline of all runs"), "One line per run.", origin_of(runs), legend)


def _draw_run(panels: Sequence[Axes], run: Run, style: Mapping[str, Any]) -> None:
    """Draw a run; the learning rate is that of the timetable, if there is one."""
    steps, values = run.series("sparsity_prunable")
    plot(panels[0], steps, [100 * value for value in values], drawstyle="steps-post", **style)
    if run.timetable is not None and run.recipe.learning_rate.peak is not None:
        draw_rate(panels[1], run.timetable, run.recipe.learning_rate.peak, until=run.last_step, **style)
    else:
        plot(panels[1], *run.series("learning_rate"), **style)
    for axes, series in zip(panels[2:], (run.series("loss"), run.evaluations), strict=False):
        plot(axes, *series, **style)


def layer_map(run: Run, step: int, sparsities: Mapping[str, float]) -> HeatMap:
    """Return a heat map of sparsities by tensor name, with a row per layer and a column per matrix."""
    cells = {_place(name): Cell(value, f"{100 * value:.1f}", name) for name, value in sparsities.items()}
    caption = f"Sparsity of each prunable tensor in per cent, after the mask update at step {step:,}."
    return HeatMap(cells, caption, origin_of([run]))


def _place(name: str) -> tuple[str, str]:
    """Return the layer of a tensor, and the tensor's name there.

    Examples:
        >>> _place("bert.encoder.layer.11.attention.self.query.weight")
        ('encoder layer 11', 'attention self query')
        >>> _place("classifier.weight")
        ('classifier', 'weight')
    """
    found = re.search(r"(?:(\w+)\.)?(\w+)\.(\d+)\.(.*)", name)
    if found is None:
        before, _, last = name.rpartition(".")
        return before.replace(".", " "), last
    parent, blocks, number, rest = found.groups()
    stack = f"{parent} " if parent in ("encoder", "decoder") else ""
    return f"{stack}{blocks} {number}", rest.removesuffix(".weight").replace(".", " ")


LOSSES = {"task_loss": ("the task's", SERIES[1]), "distillation_loss": ("the teacher's", SERIES[2])}
"""Label and colour of each part of the loss that may be logged."""


def distillation_sections(run: Run) -> list[Section]:
    """Return the section on distillation, if the run has distillation."""
    settings = run.recipe.distillation
    if settings is None:
        return []
    where = f"its logits are read from {settings.store}" if settings.store else "it runs at every step"
    text = Text(
        f"Teacher {settings.teacher}; {where}. Hardness {_described(settings.hardness)}, temperature "
        f"{_described(settings.temperature)}. Loss: (1 - h) task + h T² KL(teacher at T || student at T)."
    )
    ramps = {"hardness": settings.hardness, "temperature": settings.temperature}
    if run.timetable is None or all(ramp.is_constant for ramp in ramps.values()):
        ramps = {}
    logged = [name for name in LOSSES if run.series(name)[0]]
    picture = (_picture(run, ramps, logged),) if ramps or logged else ()
    return [Section("Distillation", (text, *picture))]


def _described(ramp: Ramp) -> str:
    if ramp.is_constant:
        return f"{ramp.first:g}"
    return f"from {ramp.first:g} at {ramp.start} to {ramp.final:g} at {ramp.end}"


def _corners(ramp: Ramp, timetable: Timetable) -> tuple[list[int], list[float]]:
    """Return the steps between which a ramp is linear, and its values there."""
    length = timetable.steps_per_epoch, timetable.total_steps
    ends = (span.to_steps(*length) for span in (ramp.start, ramp.end))
    last = timetable.total_steps - 1
    steps = sorted({0, last, *(step for end in ends for step in (end - 1, end) if 0 <= step <= last)})
    return steps, [ramp.at(step, *length) for step in steps]


def _picture(run: Run, ramps: Mapping[str, Ramp], logged: Sequence[str]) -> Picture:
    """Draw the ramps over the timetable, and the logged parts of the loss."""
    labels = [*ramps, *(["loss"] if logged else [])]
    figure, panels = new_panels(labels, "optimizer step", height=1.4 * len(labels) + 0.4)
    if (timetable := run.timetable) is not None:
        panels[0].set_xlim(0, timetable.total_steps)
        for axes, ramp in zip(panels, ramps.values(), strict=False):
            axes.plot(*_corners(ramp, timetable), color=SERIES[0], lw=1.6)
    for name in logged:
        plot(panels[-1], *run.series(name), color=LOSSES[name][1], lw=1.6)
    for axes in panels:
        axes.set_ylim(bottom=0)
    panels[0].set_xlim(left=0)
    legend = dict(LOSSES[name] for name in logged)
    return Picture(svg_of(figure, f"{run.path}: distillation"), "", origin_of([run]), legend)
