"""A plan as a picture: sparsity and learning rate over the run."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsprune.commands.plan.make import Plan
from dsprune.report.drawing import save_figure
from dsprune.schedule import Timetable

__all__ = ["draw_plan"]

PHASES = {"dense": "#e8eef4", "prune": "#fbeee0", "recover": "#e9f3e8"}


SPARSITY, RATE, QUIET = "#b8442c", "#2c5f8a", "#606060"


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw a plan into a PNG or SVG file.

    Raises:
        UserError: the file has another ending, or its folder does not exist.
    """
    save_figure(_figure(plan), path)


def _figure(plan: Plan) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    in_epochs = plan.num_examples is not None
    unit = plan.timetable.steps_per_epoch if in_epochs else 1
    for axes in (above, below):
        _shade_phases(axes, plan.timetable, unit)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=QUIET, labelsize=8)
    _draw_sparsity(above, plan.timetable, unit)
    _draw_rate(below, plan.timetable, unit, plan.recipe.learning_rate.peak)
    below.set_xlabel("epoch" if in_epochs else "step", color=QUIET)
    figure.suptitle(plan.recipe.name, x=0.01, ha="left", fontsize=11, weight="bold")
    return figure


def _shade_phases(axes: Axes, timetable: Timetable, unit: int) -> None:
    for phase, start, end in timetable.phases():
        axes.axvspan(start / unit, end / unit, color=PHASES[phase], lw=0, zorder=0)
    axes.set_xlim(0, timetable.total_steps / unit)


def _draw_sparsity(axes: Axes, timetable: Timetable, unit: int) -> None:
    steps = [0, *(update.step for update in timetable.updates), timetable.total_steps]
    sparsities = [0.0, *(update.sparsity for update in timetable.updates)]
    axes.stairs(
        [100 * s for s in sparsities], [s / unit for s in steps], baseline=None, color=SPARSITY, lw=1.8
    )
    axes.set_ylim(0, 100)
    axes.set_ylabel("sparsity of the\nprunable weights, %", color=SPARSITY, fontsize=9)
    for phase, start, end in timetable.phases():
        if end - start > 0.05 * timetable.total_steps:  # where there is room for its name
            axes.text((start + end) / 2 / unit, 4, phase, ha="center", color=QUIET, fontsize=8)


def _draw_rate(axes: Axes, timetable: Timetable, unit: int, peak: float | None) -> None:
    steps = timetable.lr_corners()
    rates = [timetable.lr_multiplier(step) * (peak or 1) for step in steps]
    axes.plot([step / unit for step in steps], rates, color=RATE, lw=1.8)
    axes.set_ylim(0, 1.08 * (peak or 1))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.set_ylabel("learning rate" if peak else "learning rate\n/ peak", color=RATE, fontsize=9)
