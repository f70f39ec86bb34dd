"""The timeline of one run: what was planned, and what happened."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from dsprune.report.blocks import Key, Picture
from dsprune.report.drawing import INK, PHASES, QUIET, SERIES, new_figure, svg_of, tidy
from dsprune.report.origin import origin_of
from dsprune.report.runs import Run
from dsprune.schedule import Timetable

__all__ = ["timeline_picture"]

SPARSITY, RATE, LOSS, SCORE = SERIES[1], SERIES[0], SERIES[3], SERIES[2]


def timeline_picture(run: Run) -> Picture:
    """Sparsity, learning rate, loss and the headline metric, one above the other."""
    panels = [_sparsity, _rate, _loss, *([_score] if run.headline else [])]
    figure = new_figure(8, 1.45 * len(panels) + 0.35)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, draw in zip(grid, panels, strict=True):
        tidy(axes)
        if run.timetable is not None:
            _shade(axes, run.timetable, named=axes is grid[0])
        draw(axes, run)
    length = run.timetable.total_steps if run.timetable else max(1, run.last_step)
    grid[-1].set_xlim(0, length)
    if run.summary is None and run.last_step:
        for axes in grid:
            axes.axvline(run.last_step, color=INK, lw=0.8, ls=":")
    grid[-1].set_xlabel("optimizer step", color=QUIET, fontsize=8.5)
    keys = [Key("series-1", "sparsity"), Key("series-0", "learning rate"), Key("series-3", "training loss")]
    keys += [Key("series-2", f"validation {run.headline}")] if run.headline else []
    caption = "Thin lines are the timetable, dots and thick lines the run."
    if run.summary is None:
        caption += f" The dotted line is the last step that is known of, {run.last_step:,}."
    return Picture(svg_of(figure, f"{run.path}: timeline"), caption, tuple(keys), origin_of([run]))


def _shade(axes: Axes, timetable: Timetable, *, named: bool) -> None:
    for phase, start, end in timetable.phases():
        axes.axvspan(start, end, color=PHASES[phase], lw=0, zorder=-1)
        if named and end - start > 0.06 * timetable.total_steps:  # where there is room
            axes.annotate(
                phase, ((start + end) / 2, 1.02), xycoords=("data", "axes fraction"),
                ha="center", va="bottom", color=QUIET, fontsize=8.5,
            )  # fmt: skip


def _sparsity(axes: Axes, run: Run) -> None:
    if run.timetable is not None and run.timetable.updates:
        updates, total = run.timetable.updates, run.timetable.total_steps
        edges = [0, *(update.step for update in updates), total]
        heights = [0.0, *(100 * update.sparsity for update in updates)]
        axes.stairs(heights, edges, baseline=None, color=SPARSITY, lw=0.9)
    steps, values = run.series("sparsity_prunable")
    axes.plot(steps, [100 * value for value in values], ".", ms=4, color=SPARSITY)
    axes.set_ylim(-3, 100)
    _name(axes, "sparsity, %")


def _rate(axes: Axes, run: Run) -> None:
    peak = run.recipe.learning_rate.peak
    if run.timetable is not None and peak is not None:
        steps = run.timetable.lr_corners()
        axes.plot(steps, [peak * run.timetable.lr_multiplier(step) for step in steps], color=RATE, lw=0.9)
    steps, values = run.series("learning_rate")
    axes.plot([step - 1 for step in steps], values, ".", ms=4, color=RATE)  # logged after the step
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    axes.yaxis.get_offset_text().set(color=QUIET, fontsize=8)
    _name(axes, "learning rate")


def _loss(axes: Axes, run: Run) -> None:
    axes.plot(*run.series("loss"), color=LOSS, lw=1.6)
    axes.set_ylim(bottom=0)
    _name(axes, "loss")


def _score(axes: Axes, run: Run) -> None:
    steps, values = run.series(f"validation_{run.headline}")
    axes.plot(steps, values, color=SCORE, lw=1.6, marker="o", ms=3.5)
    _pad(axes, values)
    _name(axes, str(run.headline))


def _pad(axes: Axes, values: Sequence[float]) -> None:
    if values:
        room = max(0.02, 0.15 * (max(values) - min(values)))
        axes.set_ylim(min(values) - room, max(values) + room)


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, color=QUIET, fontsize=8.5)
