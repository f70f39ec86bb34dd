"""An analysis as parts of a page."""

from collections.abc import Iterator

from rich.filesize import decimal

from dsprune.commands.analyze.result import Analysis, Finding
from dsprune.commands.analyze.rule import (
    RULE,
    cost,
    flops_saved,
    fragment,
    left_dense,
    noise,
    ordered,
    recommendation,
)
from dsprune.model.components import SMC_SPARSITIES as GRID
from dsprune.model.components import UNKNOWN, VECTORS, converted
from dsprune.report.blocks import Block, Cell, Code, HeatMap, Key, Picture, Section, Text
from dsprune.report.drawing import INK, QUIET, SERIES, colour_of, new_figure, svg_of, tidy
from dsprune.report.table import MISSING, Table, percent

__all__ = ["analysis_section", "component_table"]


def analysis_section(analysis: Analysis) -> Section:
    """Tables, pictures, the recommendation and its rule."""
    return Section("Components", tuple(_blocks(analysis)))


def _blocks(analysis: Analysis) -> Iterator[Block]:
    yield Text(
        f"{analysis.model} on {analysis.task}: {analysis.metric} {analysis.dense:.4f} on {analysis.num_examples:,} "
        f"validation examples, one standard error {100 * noise(analysis):.1f} points. {recommendation(analysis)}"
    )
    yield component_table(analysis)
    yield Text(RULE)
    yield _benefit_picture(analysis)
    yield _curves(analysis)
    if analysis.layers:
        yield _layer_map(analysis)
    yield _conventions(analysis)
    yield Code("Recipe fragment", fragment(analysis), opened=True)
    if any(finding.name == UNKNOWN for finding in analysis.findings):
        yield Text(
            "This family's names of matrices are not all known: those of unknown use are one component. Whether "
            "they are attention or feed-forward cannot be told here."
        )


def component_table(analysis: Analysis) -> Table:
    """A row a component, the cheapest first."""
    dense = left_dense(analysis)
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
            f"{cost(analysis, finding):.2f}",
            "dense" if finding.name in dense else "prune",
        )
        for finding in ordered(analysis)
    )
    attention = analysis.flops - sum(finding.flops for finding in analysis.findings)
    note = (
        f"Each component pruned alone, by magnitude, in one shot; losses in points. FLOPs: of a forward pass of "
        f"{analysis.length} tokens, {analysis.flops / 1e9:.3f} GFLOPs; products of queries, keys and values among "
        f"themselves, with no weight, are {attention / analysis.flops:.2%} of them. Zeros save at "
        f"{100 * analysis.target:g} %: bytes of the weights that become zero, before any index of a sparse format."
    )
    emphasis = frozenset(number for number, row in enumerate(rows) if row[-1] == "prune")
    return Table(
        "components", "Components, the cheapest to prune first", columns, rows, note, emphasis=emphasis
    )


def _points(loss: float) -> str:
    return f"{100 * loss:.2f}"


def _recovered(analysis: Analysis, finding: Finding) -> str:
    return MISSING if finding.recovered is None else _points(analysis.dense - finding.recovered)


def _benefit_picture(analysis: Analysis) -> Picture:
    """What pruning each component takes away, beside what it costs."""
    findings = ordered(analysis)[::-1]
    figure = new_figure(8, 0.8 + 0.3 * len(findings))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(findings))
    weights = [100 * analysis.target * f.num_weights / analysis.num_weights for f in findings]
    flops = [100 * flops_saved(analysis, finding) for finding in findings]
    left.barh([place + 0.2 for place in places], weights, height=0.36, color=SERIES[4], lw=0)
    left.barh([place - 0.2 for place in places], flops, height=0.36, color=SERIES[0], lw=0)
    left.invert_xaxis()
    losses = [100 * analysis.harm(finding) for finding in findings]
    right.barh(places, losses, height=0.6, color=SERIES[1], lw=0)
    right.axvline(100 * noise(analysis), color=QUIET, lw=0.8, ls=":")
    for axes, text in ((left, "taken away, % of the model"), (right, f"{analysis.metric} lost, points")):
        tidy(axes, grid="x")
        axes.set_xlabel(text, color=QUIET, fontsize=8.5)
    left.set_yticks(places, [finding.name for finding in findings], color=INK, fontsize=8.5)
    when = f" and {analysis.recovery_steps:,} steps of training" if analysis.recovery_steps else ""
    caption = f"At {100 * analysis.target:g} % of the component, one shot{when}. Dotted: one standard error."
    legend = (Key("series-4", "weights"), Key("series-0", "FLOPs"), Key("series-1", "loss"))
    svg = svg_of(figure, "benefit and harm")
    return Picture(svg, caption, legend, analysis.origin, "Benefit and harm")


def _curves(analysis: Analysis) -> Picture:
    figure = new_figure(8, 3.4)
    axes = figure.subplots()
    tidy(axes)
    legend = []
    for number, finding in enumerate(analysis.findings):
        points = sorted({0.0: analysis.dense, **finding.scores}.items())
        x, y = zip(*points, strict=True)
        axes.plot([100 * sparsity for sparsity in x], y, lw=1.5, marker="o", ms=3, **colour_of(number))
        legend.append(Key(f"series-{number % len(SERIES)}", finding.name))
    axes.set_xlabel("sparsity of the one component that is pruned, %", color=QUIET, fontsize=8.5)
    axes.set_ylabel(analysis.metric, color=QUIET, fontsize=8.5)
    caption = "From the ninth component on lines are dashed."
    svg = svg_of(figure, "one component at a time")
    return Picture(svg, caption, tuple(legend), analysis.origin, "One component at a time")


def _layer_map(analysis: Analysis) -> HeatMap:
    """Points lost by component and layer."""
    worst = max(analysis.dense - loss.score for loss in analysis.layers)
    columns = tuple(
        f.name for f in analysis.findings if any(loss.component == f.name for loss in analysis.layers)
    )
    cells = {(loss.layer, loss.component): analysis.dense - loss.score for loss in analysis.layers}

    def cell(layer: int, component: str) -> Cell | None:
        lost = cells.get((layer, component))
        if lost is None:
            return None
        return Cell(max(0.0, lost) / max(worst, 1e-9), _points(lost), f"layer {layer}, {component}")

    layers = sorted({loss.layer for loss in analysis.layers})
    rows = tuple((f"layer {layer}", tuple(cell(layer, name) for name in columns)) for layer in layers)
    first = analysis.layers[0]
    caption = (
        f"Points of {analysis.metric} lost when the matrices of one use in one layer are pruned to "
        f"{100 * analysis.target:g} %, one shot. Worst: {first.component} of layer {first.layer}."
    )
    return HeatMap(caption, columns, rows, analysis.origin)


def _conventions(analysis: Analysis) -> Table:
    """One sparsity in three conventions."""
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
        "Read: a sparsity of all weights (or, as in SMC-Bench, of all matrices, with embeddings and classifier) "
        "needs the second (third) number of the weights that this recipe prunes, when all others stay dense; and "
        "the same sparsity of the prunable weights is the fourth number of all weights."
    )
    return Table("conventions", "One sparsity in each convention", columns, tuple(rows), note)


def _possible(sparsity: float) -> str:
    return percent(sparsity) if sparsity < 1 else "not possible"
