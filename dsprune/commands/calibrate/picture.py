"""The outputs of a teacher as a picture: curves over the temperature."""

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from dsprune.distillation.calibration import TARGET_SHARE, Curve, Point
from dsprune.report.colours import QUIET, line_style
from dsprune.report.drawing import LABEL, new_panels

__all__ = ["draw_curves"]

TICKS = (0.5, 1, 2, 5, 10, 20)


PANELS: Mapping[str, Callable[[Point], float | None]] = {
    "entropy / largest": lambda point: point.entropy_share,
    "top-1 mass": lambda point: point.top1_mass,
    "calibration error": lambda point: point.calibration_error,
    "KL gradient / task's": lambda point: point.gradient_ratio,
}


def draw_curves(curves: Mapping[str, Curve], recommended: float, title: str) -> Figure:
    """Draw a panel per quantity, a line per output, and the recommended temperature in all panels."""
    title = f"{title}: T = {recommended:g}"
    figure, panels = new_panels(list(PANELS), "temperature", height=5.5, columns=2, title=title)
    for axes, value in zip(panels, PANELS.values(), strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            known = [(point.temperature, y) for point in curve.points if (y := value(point)) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), lw=1.8, marker=".", label=name, **line_style(number))
        if not axes.lines:
            axes.text(0.5, 0.9, "needs labels: give --recipe", transform=axes.transAxes, ha="center", **LABEL)
        axes.axvline(recommended, color=QUIET, lw=1, ls="--", zorder=0)
        axes.set_ylim(bottom=0)
    panels[0].set_xscale("log")
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    panels[0].axhline(TARGET_SHARE, color=QUIET, lw=0.8, ls=":", zorder=0)
    if len(curves) > 1:
        panels[0].legend(fontsize=8.5, frameon=False)
    return figure
