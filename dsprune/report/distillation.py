"""What a student was taught, timeline."""

from dsprune.report.blocks import Block, Key, Picture, Text
from dsprune.report.drawing import QUIET, SERIES, new_figure, svg_of, tidy
from dsprune.report.origin import origin_of
from dsprune.report.runs import Run

__all__ = ["distillation_blocks"]

LOSSES = {"task_loss": "the task's", "distillation_loss": "the teacher's"}
"""Parts of the loss that may be logged."""


def distillation_blocks(run: Run) -> tuple[Block, ...]:
    """Who teaches, how much heed is paid to it, and the parts of the loss where they were logged."""
    settings = run.recipe.distillation
    assert settings is not None
    where = f"its answers are read from {settings.store}" if settings.store else "it answers at every step"
    said = Text(
        f"Teacher {settings.teacher}; {where}. Hardness {_ramp(run, 'hardness')}, temperature "
        f"{_ramp(run, 'temperature')}. Loss: (1 - h) task + h T² KL(teacher at T || student at T)."
    )
    constant = settings.hardness.is_constant and settings.temperature.is_constant
    logged = [name for name in LOSSES if run.series(name)[0]]
    ramps = [] if constant or run.timetable is None else ["hardness", "temperature"]
    return (said, _picture(run, ramps, logged)) if ramps or logged else (said,)


def _ramp(run: Run, name: str) -> str:
    ramp = getattr(run.recipe.distillation, name)
    if ramp.is_constant:
        return f"{ramp.first:g}"
    return f"from {ramp.first:g} at {ramp.start} to {ramp.final:g} at {ramp.end}"


def _picture(run: Run, ramps: list[str], logged: list[str]) -> Picture:
    panels = [*ramps, *(["loss"] if logged else [])]
    figure = new_figure(8, 1.4 * len(panels) + 0.4)
    for axes, panel in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        tidy(axes)
        axes.set_ylabel(panel, color=QUIET, fontsize=8.5)
        if panel in ramps and run.timetable is not None:
            timetable, ramp = run.timetable, getattr(run.recipe.distillation, panel)
            steps = range(timetable.total_steps)
            values = [ramp.at(step, timetable.steps_per_epoch, timetable.total_steps) for step in steps]
            axes.plot(steps, values, color=SERIES[0], lw=1.6)
        else:
            for number, name in enumerate(logged):
                axes.plot(*run.series(name), color=SERIES[number + 1], lw=1.6)
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, run.timetable.total_steps if run.timetable else None)
    axes.set_xlabel("optimizer step", color=QUIET, fontsize=8.5)
    keys = tuple(Key(f"series-{number + 1}", LOSSES[name]) for number, name in enumerate(logged))
    return Picture(svg_of(figure, f"{run.path}: distillation"), "", keys, origin_of([run]))
