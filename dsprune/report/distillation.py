"""The distillation of one run: its teacher, its ramps, and the parts of the loss."""

from dsprune.recipe.ramp import Ramp
from dsprune.report.colours import SERIES
from dsprune.report.drawing import new_panels, svg_of
from dsprune.report.page import Picture, Section, Text
from dsprune.report.runs import Run, origin_of

__all__ = ["distillation_sections"]

LOSSES = {
    "task_loss": ("the task's", SERIES[1]),
    "distillation_loss": ("the teacher's", SERIES[2]),
}
"""Label and colour of each part of the loss that may be logged."""


def distillation_sections(run: Run) -> list[Section]:
    """Return the section on the distillation of a run that has one."""
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


def _picture(run: Run, ramps: dict[str, Ramp], logged: list[str]) -> Picture:
    labels = [*ramps, *(["loss"] if logged else [])]
    figure, panels = new_panels(labels, "optimizer step", height=1.4 * len(labels) + 0.4)
    timetable = run.timetable
    for axes, ramp in zip(panels, ramps.values(), strict=False):
        assert timetable is not None, "there is a length for the ramps"
        steps = range(timetable.total_steps)
        values = [ramp.at(step, timetable.steps_per_epoch, timetable.total_steps) for step in steps]
        axes.plot(steps, values, color=SERIES[0], lw=1.6)
    for name in logged:
        panels[-1].plot(*run.series(name), color=LOSSES[name][1], lw=1.6)
    for axes in panels:
        axes.set_ylim(bottom=0)
    panels[0].set_xlim(0, timetable.total_steps if timetable else None)
    legend = dict(LOSSES[name] for name in logged)
    return Picture(svg_of(figure, f"{run.path}: distillation"), "", origin_of([run]), legend)
