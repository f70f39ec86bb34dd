"""`dsprune plan`: check a recipe, and print its timetable and cost, without running it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Grid

from dsprune.commands.plan.cost import describe_traffic, memory_table
from dsprune.commands.plan.law import law_table, sweep_table
from dsprune.commands.plan.make import Plan, make_plan
from dsprune.commands.plan.picture import draw_plans
from dsprune.model.cost import rank_memory
from dsprune.model.prunable import dense_groups
from dsprune.model.vocabulary import Vocabulary
from dsprune.recipe import LearningRate, Recipe
from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.report.table import Table, as_lines, show
from dsprune.schedule import MaskUpdate, Timetable
from dsprune.utils.console import cell, print_table, say
from dsprune.utils.text import MISSING, percent

__all__ = ["plan", "print_plan"]


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
    """Check everything that training would refuse; print the timetable, memory, disk space and traffic.

    The arguments are the options of `dsprune plan`.

    Raises:
        UserError: the parts of the recipe do not fit together, or epochs cannot be counted.
    """
    made = make_plan(recipe, world_size, train_examples)
    if plot is not None:
        draw_plans({recipe.name: made}, recipe.name, plot)  # first, because the path may be refused
    print_plan(made, world_size, range(4) if stage is None else [stage], console)
    if sweep:
        console.print()
        show(sweep_table(made), console)
    if plot is not None:
        say(console, f"Picture: {plot}")


def print_plan(plan: Plan, world_size: int, stages: Iterable[int], console: Console) -> None:
    """Print a plan for a number of ranks and some ZeRO stages."""
    grid = Grid.grid(padding=(0, 2))
    for name, text in _facts(plan):
        grid.add_row(cell(name, "bold"), cell(text))
    print_table(console, grid)
    for remark in plan.remarks:
        say(console, remark)
    if plan.dense:
        for line in as_lines(_dense(plan)):  # names of weights can be longer than a narrow terminal
            say(console, line)
    if plan.timetable.updates:
        if (choices := law_table(plan)).rows:
            console.print()
            show(choices, console)
        show(_updates(plan), console)
    show(memory_table(plan, world_size, stages), console)
    if plan.timetable.updates:
        say(console, describe_traffic(plan, world_size))


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
        yield "vocabulary", _vocabulary(plan, plan.vocabulary)
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
    """Describe the peak of each parameter group, and any decay that is not linear."""
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
    return Table("dense", "Dense", columns, rows)


def _vocabulary(plan: Plan, vocabulary: Vocabulary) -> str:
    size, precision = plan.num_missing, plan.recipe.precision
    saved = rank_memory(
        size, 0, stage=0, world_size=1, precision=precision, num_moments=plan.num_moments
    ).total
    text = (
        f"{len(vocabulary.kept):,} of {vocabulary.size:,} tokens: {size:,} weights are left out, "
        f"{decimal(saved)} of weights, gradients and optimizer state"
    )
    if updates := plan.timetable.updates:
        zeros = plan.num_pruned(updates[-1]) / (plan.num_weights + size)
        text += f"; at the end {percent(zeros)} of the weights with them are zero"
    return text


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
