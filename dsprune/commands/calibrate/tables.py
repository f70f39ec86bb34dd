"""What was found out about a teacher: tables and curves over the temperature."""

from collections.abc import Callable, Iterator, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from rich import box
from rich.console import Console
from rich.table import Table

from dsprune.distillation.calibration import NUM_BINS, TARGET_SHARE, Curve, Point
from dsprune.distillation.store import StoreSpec

__all__ = ["draw_curves", "print_curves"]


def print_curves(curves: Mapping[str, Curve], recommended: float, spec: StoreSpec, console: Console) -> None:
    """Print one table an output, what its columns mean, the rule and what it recommends."""
    for name, curve in curves.items():
        console.print(_table(f"{name}: {_facts(curve)}", curve, recommended))
    for note in _notes(curves, spec):
        console.print(note, markup=False, highlight=False)
    console.print(_verdict(curves, recommended), markup=False, highlight=False)


def _facts(curve: Curve) -> str:
    facts = f"{curve.num_rows:,} rows"
    if curve.agreement is not None:
        facts += f", {curve.num_labels:,} with a label, teacher right in {curve.agreement:.2%} of them"
    return facts


def _table(title: str, curve: Curve, recommended: float) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "T", "entropy", "of largest", "top-1 mass", "ECE", "KL gradient / task's"):
        table.add_column(column, justify="right")
    for point in curve.points:
        is_chosen = point.temperature == recommended
        table.add_row("->" if is_chosen else "", *_cells(point), style="bold green" if is_chosen else None)
    return table


def _cells(point: Point) -> Iterator[str]:
    yield f"{point.temperature:g}"
    yield f"{point.entropy:.4f}"
    yield f"{point.entropy_share:.1%}"
    yield f"{point.top1_mass:.4f}"
    yield "-" if point.calibration_error is None else f"{point.calibration_error:.4f}"
    yield f"{point.gradient_ratio:.3f}"


def _notes(curves: Mapping[str, Curve], spec: StoreSpec) -> Iterator[str]:
    yield (
        "Gradients are with respect to a student's logits that are all equal, as at initialisation; the "
        "distillation term has its factor T^2."
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
            "A top-k store knows the temperatures it was captured for only. Mass outside the "
            f"{spec.k} largest counts as evenly spread, so the entropy is an upper bound."
        )


def _verdict(curves: Mapping[str, Curve], recommended: float) -> str:
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
