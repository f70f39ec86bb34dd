"""The curves of a teacher over the temperature, as a picture."""

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from dsprune.pure.calibration import TARGET_SHARE, Curve, Point

__all__ = ["draw_curves"]

COLOURS = ("#2c5f8a", "#b8442c", "#5b8a3c", "#8a5b9c")
QUIET = "#606060"
TICKS = (0.5, 1, 2, 5, 10, 20)
PANELS: Mapping[str, Callable[[Point], float | None]] = {
    "entropy / largest": lambda point: point.entropy_share,
    "top-1 mass": lambda point: point.top1_mass,
    "calibration error": lambda point: point.calibration_error,
    "KL gradient / task's": lambda point: point.gradient_ratio,
}


def draw_curves(curves: Mapping[str, Curve], recommended: float, title: str) -> Figure:
    """One panel a quantity, one line an output, and the recommended temperature across all."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, (label, value) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(axes, curves, value)
        axes.axvline(recommended, color=QUIET, lw=1, ls="--", zorder=0)
        axes.set_ylabel(label, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=QUIET, labelsize=8)
    panels[0].axhline(TARGET_SHARE, color=QUIET, lw=0.8, ls=":", zorder=0)
    for axes in panels[2:]:
        axes.set_xlabel("temperature", color=QUIET, fontsize=9)
    if len(curves) > 1:
        panels[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{title}: T = {recommended:g}", x=0.01, ha="left", fontsize=11, weight="bold")
    return figure


def _draw_panel(axes: Axes, curves: Mapping[str, Curve], value: Callable[[Point], float | None]) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        known = [(point.temperature, y) for point in curve.points if (y := value(point)) is not None]
        if known:
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(*zip(*known, strict=True), color=colour, lw=1.8, marker=".", label=name)
    if not axes.lines:
        axes.text(0.5, 0.9, "needs labels: give --recipe", transform=axes.transAxes, ha="center", color=QUIET)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
