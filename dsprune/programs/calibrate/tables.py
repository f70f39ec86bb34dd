"""What was found out about a teacher, as text."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from dsprune.pure.calibration import NUM_BINS, TARGET_SHARE, Curve, Point
from dsprune.pure.store import StoreSpec

__all__ = ["print_curves"]


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
