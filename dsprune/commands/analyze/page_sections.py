"""An analysis as a section of a page."""

from collections.abc import Iterator

from rich.filesize import decimal

from dsprune.commands.analyze.result import RULE, Analysis, Finding, UnusedRows, without_nan
from dsprune.model.components import SMC_SPARSITIES as GRID
from dsprune.model.components import UNKNOWN, VECTORS, converted
from dsprune.report.drawing import QUIET, SERIES, line_style, new_panels, svg_of
from dsprune.report.page import Block, Cell, Code, HeatMap, Picture, Section, Text
from dsprune.report.table import Table
from dsprune.utils.text import MISSING, percent

__all__ = ["UNUSED", "analysis_section", "component_table"]

UNUSED = "rows of unused tokens"
"""Name of the row for `model.vocabulary: used`."""


def analysis_section(analysis: Analysis) -> Section:
    """Return the section with tables, pictures, the recommendation and its rule."""
    return Section("Components", tuple(_blocks(analysis)))


def _blocks(analysis: Analysis) -> Iterator[Block]:
    yield Text(
        f"{analysis.model} on {analysis.task}: {analysis.metric} {analysis.dense:.4f} on {analysis.num_examples:,} "
        f"validation examples, one standard error {100 * analysis.noise:.1f} points. {analysis.recommendation()}"
    )
    yield component_table(analysis)
    yield Text(RULE)
    yield _benefit_picture(analysis)
    yield _curves(analysis)
    if analysis.layers:
        yield _layer_map(analysis)
    yield _conventions(analysis)
    yield Code("Recipe fragment", analysis.fragment(), opened=True)
    if any(finding.name == UNKNOWN for finding in analysis.findings):
        yield Text("Matrices with unknown names are one component, and may be attention or feed-forward.")


def component_table(analysis: Analysis) -> Table:
    """Return a table with a row per component, the cheapest to prune first."""
    dense = analysis.left_dense()
    sparsities = sorted(analysis.findings[0].scores)
    after = f"after {analysis.recovery_steps:,} steps"
    columns = (
        "component", "weights", "of model", "of FLOPs", "zeros save",
        *(f"lost at {100 * sparsity:g} %" for sparsity in sparsities),
        *([after] if analysis.recovery_steps else []),
        "lost per % of benefit", "advice",
    )  # fmt: skip
    rows = tuple(
        (
            finding.name,
            f"{finding.num_weights:,}",
            percent(finding.num_weights / analysis.num_weights),
            percent(finding.flops / analysis.flops),
            decimal(round(analysis.target * finding.num_weights * analysis.weight_bytes)),
            *(_points(analysis.dense - finding.scores[sparsity]) for sparsity in sparsities),
            *([_recovered(analysis, finding)] if analysis.recovery_steps else []),
            f"{analysis.cost(finding):.2f}",
            "dense" if finding.name in dense else "prune",
        )
        for finding in analysis.ordered()
    )
    if analysis.unused is not None:
        rows += (_unused_row(analysis, analysis.unused),)
    emphasis = frozenset(number for number, row in enumerate(rows) if row[-1] == "prune")
    title = "Components, the cheapest to prune first"
    return Table("components", title, columns, rows, _component_note(analysis), emphasis=emphasis)


def _component_note(analysis: Analysis) -> str:
    attention = analysis.flops - sum(finding.flops for finding in analysis.findings)
    return (
        f"Each component pruned alone, by magnitude, in one shot; losses in points. FLOPs: of a forward pass of "
        f"{analysis.length} tokens, {analysis.flops / 1e9:.3f} GFLOPs; products of queries, keys and values, which "
        f"use no weights, are {percent(attention / analysis.flops)} of them. Zeros save at "
        f"{100 * analysis.target:g} %: bytes of the weights that become zero, without any index of a sparse format. "
        f"{_unused_note(analysis)}"
    )


def _unused_row(analysis: Analysis, unused: UnusedRows) -> tuple[str, ...]:
    """Return the row of `model.vocabulary: used`, which removes weights without sparsity."""
    num_levels = len(analysis.findings[0].scores) + bool(analysis.recovery_steps)
    return (
        UNUSED, f"{unused.num_weights:,}", percent(unused.num_weights / analysis.num_weights), percent(0.0),
        decimal(unused.num_weights * analysis.weight_bytes),
        *[_points(analysis.dense - unused.score)] * num_levels, MISSING, "leave out",
    )  # fmt: skip


def _unused_note(analysis: Analysis) -> str:
    unused = analysis.unused
    if unused is None:
        return "model.vocabulary: used does not fit this model or task: all embedding rows are needed."
    return (
        f"{UNUSED}: model.vocabulary: used leaves out {unused.num_rows - unused.num_kept:,} of "
        f"{unused.num_rows:,} embedding rows, whose tokens the task's data do not use. They are not trained, and "
        "dsprune export --trimmed writes the model without them."
    )


def _points(loss: float) -> str:
    return f"{100 * loss:.2f}"


def _recovered(analysis: Analysis, finding: Finding) -> str:
    return MISSING if finding.recovered is None else _points(analysis.dense - finding.recovered)


def _benefit_picture(analysis: Analysis) -> Picture:
    """Draw the weights and FLOPs saved by pruning each component, next to the loss of the metric."""
    findings = analysis.ordered()[::-1]
    labels = ("saved, % of the model", f"{analysis.metric} lost, points")
    names = [finding.name for finding in findings]
    figure, (left, right) = new_panels(labels, height=0.8 + 0.3 * len(findings), columns=2, rows=names)
    places = range(len(findings))
    weights = [100 * analysis.target * f.num_weights / analysis.num_weights for f in findings]
    flops = [100 * analysis.flops_saved(finding) for finding in findings]
    left.barh([place + 0.2 for place in places], weights, height=0.36, color=SERIES[4], lw=0)
    left.barh([place - 0.2 for place in places], flops, height=0.36, color=SERIES[0], lw=0)
    left.invert_xaxis()
    losses = [100 * analysis.harm(finding) for finding in findings]
    right.barh(places, losses, height=0.6, color=SERIES[1], lw=0)
    right.axvline(100 * analysis.noise, color=QUIET, lw=0.8, ls=":")
    when = f" and {analysis.recovery_steps:,} steps of training" if analysis.recovery_steps else ""
    caption = f"At {100 * analysis.target:g} % of the component, one shot{when}. Dotted: one standard error."
    legend = {"weights": SERIES[4], "FLOPs": SERIES[0], "loss": SERIES[1]}
    svg = svg_of(figure, f"benefit and harm of pruning {analysis.recipe}")
    return Picture(svg, caption, analysis.origin, legend, "Benefit and harm")


def _curves(analysis: Analysis) -> Picture:
    label = "sparsity of the only component that is pruned, %"
    figure, (axes,) = new_panels([analysis.metric], label, height=3.4)
    legend = {}
    for number, finding in enumerate(analysis.findings):
        points = sorted({0.0: analysis.dense, **finding.scores}.items())
        x, y = zip(*points, strict=True)
        style = line_style(number)
        axes.plot([100 * sparsity for sparsity in x], y, lw=1.5, marker="o", ms=3, **style)
        legend[finding.name] = style["color"]
    caption = "Lines are dashed from the ninth component on."
    svg = svg_of(figure, f"one component at a time of {analysis.recipe}")
    return Picture(svg, caption, analysis.origin, legend, "One component at a time")


def _layer_map(analysis: Analysis) -> HeatMap:
    """Return the loss in points of each component of each layer."""
    losses = {
        (loss.layer, loss.component): analysis.dense - without_nan(loss.score) for loss in analysis.layers
    }
    largest = max(*losses.values(), 1e-9)
    cells = {
        (f"layer {layer}", finding.name): Cell(
            max(0.0, loss) / largest, _points(loss), f"layer {layer}, {finding.name}"
        )
        for layer in sorted({loss.layer for loss in analysis.layers})
        for finding in analysis.findings
        if (loss := losses.get((layer, finding.name))) is not None
    }
    worst = analysis.layers[0]
    caption = (
        f"Points of {analysis.metric} lost when the matrices of one component in one layer are pruned to "
        f"{100 * analysis.target:g} %, one shot. Worst: {worst.component} of layer {worst.layer}."
    )
    return HeatMap(cells, caption, analysis.origin)


def _conventions(analysis: Analysis) -> Table:
    """Return a table of the same sparsities in three conventions."""
    vectors = sum(finding.num_weights for finding in analysis.findings if finding.name == VECTORS)
    matrices = analysis.num_weights - vectors
    rows = []
    for sparsity in sorted({analysis.target, *GRID}):
        of_all = converted(sparsity, analysis.num_weights, analysis.num_prunable)
        of_matrices = converted(sparsity, matrices, analysis.num_prunable)
        back = sparsity * analysis.num_prunable / analysis.num_weights
        rows.append((percent(sparsity), _possible(of_all), _possible(of_matrices), percent(back)))
    columns = (
        "sparsity", "of all weights: of the prunable", "of all matrices: of the prunable",
        "of the prunable: of all weights",
    )  # fmt: skip
    note = (
        "Second and third column: sparsity of the weights that this recipe prunes, all others dense, for the first "
        "column's sparsity of all weights or, as in SMC-Bench, of all matrices with embeddings and classifier. "
        "Fourth column: sparsity of all weights for the first column's sparsity of the prunable weights."
    )
    return Table("conventions", "One sparsity in each convention", columns, tuple(rows), note)


def _possible(sparsity: float) -> str:
    return percent(sparsity) if sparsity < 1 else "not possible"
