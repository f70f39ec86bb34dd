"""`dsprune plan`: the timetable and the cost of a recipe, whose parts are checked. Runs nothing."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Grid

from dsprune.commands.plan.law import law_table, sweep_table
from dsprune.commands.plan.make import Plan, make_plan
from dsprune.masks.input_sums import input_bytes
from dsprune.masks.shared_blocks import num_shared
from dsprune.methods.method import (
    RECOMPUTATIONS,
    CompensatingMethod,
    RegrowingMethod,
    find_method,
    lets_regrow,
)
from dsprune.model.cost import checkpoint_bytes, rank_memory
from dsprune.model.prunable import dense_groups
from dsprune.model.vocabulary import Vocabulary
from dsprune.recipe import LearningRate, Recipe
from dsprune.recipe.pattern import UNSTRUCTURED, Pattern
from dsprune.registry import SCOPES
from dsprune.report.drawing import (
    SERIES,
    draw_rate,
    draw_sparsity,
    line_style,
    new_panels,
    save_figure,
    shade_phases,
)
from dsprune.report.table import Table, as_lines, show
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.selection.compensate import block_bytes
from dsprune.selection.cut_bands import band_bytes
from dsprune.selection.tiles import Tiling
from dsprune.selection.traffic import row_bytes, update_bytes
from dsprune.utils.console import cell, print_table, say
from dsprune.utils.text import MISSING, percent

__all__ = ["draw_plans", "plan", "print_plan"]


def plan(
    recipe: Recipe,
    world_size: int,
    stage: int | None,
    train_examples: int | None,
    plot: Path | None,
    console: Console,
    *,
    sweep: bool = False,
) -> None:
    """Check all that training would refuse; print the timetable, and the memory, disk and traffic that it needs.

    Args:
        recipe: the recipe.
        world_size: number of ranks.
        stage: ZeRO stage to show the memory of; None = all of them.
        train_examples: size of the training data, to plan without reading them; None = read and check local data.
        plot: PNG or SVG file for a picture of sparsity and learning rate; None = none.
        console: where to print.
        sweep: whether to print other settings that are worth a try.

    Raises:
        UserError: the parts of the recipe do not fit together, or epochs cannot be counted.
    """
    made = make_plan(recipe, world_size, train_examples)
    if plot is not None:
        draw_plans({recipe.name: made}, recipe.name, plot)  # first: the path may be refused
    print_plan(made, world_size, range(4) if stage is None else [stage], console)
    if sweep:
        console.print()
        show(sweep_table(made), console)
    if plot is not None:
        say(console, f"Picture: {plot}")


def print_plan(plan: Plan, world_size: int, stages: Iterable[int], console: Console) -> None:
    """Print all of a plan, for a number of ranks and some ZeRO stages."""
    grid = Grid.grid(padding=(0, 2))
    for name, text in _facts(plan):
        grid.add_row(cell(name, "bold"), cell(text))
    print_table(console, grid)
    for remark in plan.remarks:
        say(console, remark)
    if plan.dense:
        for line in as_lines(_dense(plan)):  # names of weights are longer than a narrow terminal is wide
            say(console, line)
    if plan.timetable.updates:
        if (choices := law_table(plan)).rows:
            console.print()
            show(choices, console)
        show(_updates(plan), console)
    show(_memory(plan, world_size, stages), console)
    if plan.timetable.updates:
        say(console, _traffic(plan, world_size))


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    recipe, timetable = plan.recipe, plan.timetable
    yield "recipe", recipe.name
    yield "model", f"{plan.model_path}, {plan.num_weights:,} weights"
    if recipe.pruning is not None:
        pruning = recipe.pruning
        share = plan.num_prunable / plan.num_weights
        yield (
            "prunable",
            f"{plan.num_prunable:,} weights in {len(plan.tensors)} tensors, {percent(share, 1)} of all",
        )
        pattern = "" if pruning.pattern == UNSTRUCTURED.text else f"{pruning.pattern}, "
        first = "" if pruning.first_method is None else f" after {pruning.first_method}"
        kind = f"{pattern}{pruning.method}{first}, {pruning.scope}, {pruning.curve}"
        yield "pruning", f"{percent(pruning.sparsity, 1)}, {kind}"
    if plan.vocabulary is not None:
        yield "vocabulary", _vocabulary(plan.vocabulary, plan.num_missing, recipe.precision)
    if plan.targets:
        yield "predicts", plan.targets
    length = f"{timetable.total_steps:,} steps of {recipe.budget.batch} examples"
    if plan.num_examples is not None:
        epochs = timetable.total_steps / timetable.steps_per_epoch
        length += f" = {epochs:.4g} epochs of {timetable.steps_per_epoch:,} steps"
        length += f" ({plan.num_examples:,} examples)"
    yield "run", length
    phases = (f"{name} for {end - start:,} steps" for name, start, end in timetable.phases())
    yield "phases", ", ".join(phases)
    if timetable.warmup_steps:
        yield "warm-up", f"{timetable.warmup_steps:,} steps"
    yield from _rates(recipe.learning_rate, timetable)
    if recipe.learning_rate.beta_at_peak is not None:
        yield "beta", f"{recipe.optimizer.betas[0]:g}, and {recipe.learning_rate.beta_at_peak:g} at the peak"


def _rates(rate: LearningRate, timetable: Timetable) -> Iterator[tuple[str, str]]:
    """Return the peak of each parameter group, and what is not a decay along lines."""
    if rate.peak is not None:
        scaled = (f", {factor * rate.peak:.3g} for {pattern}" for pattern, factor in rate.scale.items())
        yield "peak", f"{rate.peak:.3g}{''.join(scaled)}"
    if timetable.decay_every:
        factor = f"{timetable.decay_factor:g} every {timetable.decay_every:,} steps"
        yield "decay", f"times {factor}, from the end of the warm-up and from each rewind"
    elif timetable.curve != "linear" or timetable.hold > 1:
        held = f", each value kept for {timetable.hold:,} steps" if timetable.hold > 1 else ""
        yield "decay", timetable.curve + held


def _dense(plan: Plan) -> Table:
    rows = tuple(
        (
            pattern,
            str(list(group[0].shape)),
            str(len(group)),
            f"{sum(m.numel for m in group):,}",
            group[0].reason,
        )
        for pattern, group in dense_groups(plan.dense)
    )
    columns = ("weights", "shape", "matrices", "size", "reason")
    return Table("dense", "Dense inside the blocks", columns, rows)


def _vocabulary(vocabulary: Vocabulary, num_missing: int, precision: str) -> str:
    saved = rank_memory(num_missing, 0, stage=0, world_size=1, precision=precision).total
    return (
        f"{len(vocabulary.kept):,} of {vocabulary.size:,} tokens: {num_missing:,} weights are left out, "
        f"{decimal(saved)} of weights, gradients and optimizer state"
    )


def _updates(plan: Plan) -> Table:
    columns = ("step", "epoch", "sparsity", "of all weights", "weights pruned", "learning rate")
    rows = tuple(tuple(_cells(plan, update)) for update in plan.timetable.updates)
    return Table("updates", "Mask updates", columns, rows)


def _cells(plan: Plan, update: MaskUpdate) -> Iterator[str]:
    timetable, peak = plan.timetable, plan.recipe.learning_rate.peak
    multiplier, num_pruned = timetable.lr_multiplier(update.step), plan.num_pruned(update)
    yield f"{update.step:,}"
    yield MISSING if plan.num_examples is None else f"{update.step / timetable.steps_per_epoch:.2f}"
    yield percent(num_pruned / plan.num_prunable)
    yield percent(num_pruned / plan.num_weights)
    yield f"{num_pruned:,}"
    yield f"{multiplier:.2f} x peak" if peak is None else f"{multiplier * peak:.2e}"


def _memory(plan: Plan, world_size: int, stages: Iterable[int]) -> Table:
    precision, pruning = plan.recipe.precision, plan.recipe.pruning
    regrows = pruning is not None and lets_regrow(pruning)
    methods = [] if pruning is None else [pruning.method, pruning.first_method or pruning.method]
    kept_bytes = max((find_method(name).bytes_per_weight() for name in methods), default=0)
    reads_inputs = any(find_method(name).reads_inputs for name in methods)
    kept_of = (kept_bytes, input_bytes(plan.tensors) if reads_inputs else 0)
    kept = ("accumulators",) if any(kept_of) else ()
    names = ("weights", "gradients", "master", "moments", "masks", *kept, "total")
    columns = []
    for stage in stages:
        size = plan.num_weights, plan.num_prunable, stage
        used = rank_memory(*size, world_size, precision, *kept_of, regrows=regrows)
        disk = checkpoint_bytes(*size, precision, *kept_of, regrows=regrows)
        sizes = (*(getattr(used, name) for name in names), disk)
        columns.append((f"ZeRO stage {stage}", *map(decimal, sizes)))
    headings, *rows = zip(("", *names, "checkpoint"), *columns, strict=True)
    ranks = "one rank" if world_size == 1 else f"each of {world_size} ranks"
    title = f"Memory of {ranks} in {precision}; activations and buffers come on top"
    return Table("memory", title, headings, tuple(rows))


def _traffic(plan: Plan, world_size: int) -> str:
    """Return the communication that the selection needs; masks themselves are never sent."""
    pruning = plan.recipe.pruning
    assert pruning is not None, "without pruning there are no mask updates"
    groups = plan.groups(plan.timetable.updates[-1])
    if world_size == 1:
        return "Selection: one rank sends nothing (for several: --world-size N)"
    normalized, method = SCOPES.get(pruning.scope).normalized, find_method(pruning.method)
    parts = (pruning.recomputations or RECOMPUTATIONS) if issubclass(method, CompensatingMethod) else 1
    regrows = issubclass(method, RegrowingMethod)
    num_bytes = parts * update_bytes(groups, world_size, normalized, regrows)
    pattern, completed = Pattern.parse(pruning.pattern), ""
    if not pattern.is_unstructured:
        most = band_bytes([Tiling.of(tensor, pattern).band for tensor in plan.tensors], world_size)
        completed = f", and sends {decimal(most)} at most to complete tiles of {pattern.text} that shards cut"
    if most := parts * row_bytes(groups, world_size, regrows):
        completed += f", and sends {decimal(most)} at most to complete rows that shards cut"
    text = (
        f"Selection: each rank sends at most {decimal(num_bytes)} a mask update and receives as much{completed}, for "
        f"{len(plan.timetable.updates)} of them (nothing at ZeRO stage 0, where ranks are replicas)"
    )
    if method.reads_inputs:
        num_bytes = input_bytes(plan.tensors)
        text += f"\nInputs: each rank sends {decimal(num_bytes)} at a step that counts, at every ZeRO stage"
    if method.block == 1:
        return text
    shared = num_shared([tensor.numel for tensor in plan.tensors], method.block, world_size)
    at_step, at_update = map(decimal, block_bytes(method, shared, len(plan.tensors), parts))
    return (
        f"{text}\nBlocks: ranks share {shared:,} at stage 3, and fewer at stages 1 and 2: {at_step} a step whose "
        f"gradients count, and {at_update} a mask update"
    )


def draw_plans(plans: Mapping[str, Plan], title: str, path: Path) -> None:
    """Draw a plan with its phases, or several over one another, into a PNG or SVG file.

    Args:
        plans: by their label in the legend.
        title: heading of the picture.
        path: the file.

    Raises:
        UserError: the file has another ending, or its folder does not exist.
    """
    in_epochs = all(plan.num_examples is not None for plan in plans.values())
    has_peak = all(plan.recipe.learning_rate.peak for plan in plans.values())
    labels = (
        "sparsity of the\nprunable weights, %",
        "learning rate" if has_peak else "learning rate\n/ peak",
    )
    figure, panels = new_panels(labels, "epoch" if in_epochs else "step", height=4.5, title=title)
    for number, (label, plan) in enumerate(plans.items()):
        unit = plan.timetable.steps_per_epoch if in_epochs else 1
        if len(plans) == 1:
            shade_phases(panels, plan.timetable, unit=unit)
        styles = [line_style(number)] * 2 if len(plans) > 1 else [{"color": SERIES[1]}, {"color": SERIES[0]}]
        draw_sparsity(panels[0], plan.timetable, unit=unit, lw=1.8, label=label, **styles[0])
        peak = plan.recipe.learning_rate.peak if has_peak else None
        draw_rate(panels[1], plan.timetable, peak or 1.0, unit=unit, lw=1.8, **styles[1])
    if len(plans) > 1:
        panels[0].legend(fontsize=8.5, frameon=False, loc="lower right")
        panels[0].set_xlim(left=0)
    panels[0].set_ylim(0, 100)
    panels[1].set_ylim(bottom=0)
    save_figure(figure, path)
