"""The outputs of a teacher as tables over the temperature, and the recommended temperature."""

from collections.abc import Callable, Iterator, Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from rich.console import Console

from dsprune.distillation.calibration import NUM_BINS, TARGET_SHARE, Curve, Point
from dsprune.distillation.store import StoreSpec
from dsprune.report.drawing import LABEL, QUIET, line_style, new_panels
from dsprune.report.table import MISSING, Table, as_rich
from dsprune.utils.console import say

__all__ = ["draw_curves", "print_curves"]


def print_curves(curves: Mapping[str, Curve], recommended: float, spec: StoreSpec, console: Console) -> None:
    """Print one table per output, the meaning of its columns, the rule and the temperature that it recommends."""
    for name, curve in curves.items():
        console.print(as_rich(_table(name, curve, recommended)))
    for note in (*_notes(curves, spec), _recommendation(curves, recommended)):
        say(console, note)


def _table(name: str, curve: Curve, recommended: float) -> Table:
    title = f"{name}: {curve.num_rows:,} rows"
    if curve.agreement is not None:
        title += f", {curve.num_labels:,} with a label, teacher right in {curve.agreement:.2%} of them"
    chosen = [point.temperature == recommended for point in curve.points]
    columns = ("", "T", "entropy", "of largest", "top-1 mass", "ECE", "KL gradient / task's")
    rows = tuple(
        ("->" if is_chosen else "", *_cells(point))
        for point, is_chosen in zip(curve.points, chosen, strict=True)
    )
    return Table(name, title, columns, rows, emphasis=frozenset([chosen.index(True)]))


def _cells(point: Point) -> Iterator[str]:
    yield f"{point.temperature:g}"
    yield f"{point.entropy:.4f}"
    yield f"{point.entropy_share:.1%}"
    yield f"{point.top1_mass:.4f}"
    yield MISSING if point.calibration_error is None else f"{point.calibration_error:.4f}"
    yield f"{point.gradient_ratio:.3f}"


def _notes(curves: Mapping[str, Curve], spec: StoreSpec) -> Iterator[str]:
    yield (
        "Gradients are with respect to a student's logits that are all equal, as at initialisation; the "
        "distillation term includes its factor T^2."
    )
    if any(curve.num_labels for curve in curves.values()):
        yield (
            f"ECE: expected calibration error, {NUM_BINS} bins. The teacher was trained on these samples, so "
            f"it looks better here than on others, and the rule does not use it."
        )
    else:
        yield "No labels: --recipe adds the teacher's agreement with them and its calibration error (ECE)."
    if spec.kind == "topk":
        yield (
            f"A top-k store knows the temperatures it was captured for only. Mass outside the {spec.k} largest "
            f"counts as evenly spread, so the entropy is an upper bound."
        )


def _recommendation(curves: Mapping[str, Curve], recommended: float) -> str:
    shares = [
        point.entropy_share
        for curve in curves.values()
        for point in curve.points
        if point.temperature == recommended
    ]
    return (
        f"Recommended: T = {recommended:g}, where the teacher's mean entropy is "
        f"{sum(shares) / len(shares):.0%} of the largest. Rule: of the temperatures above, not below 1, the "
        f"one where that share is nearest to {TARGET_SHARE:.0%}, halfway from a bare label to no information. "
        f"The rule is dsprune's own: the paper's could not be read."
    )


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
