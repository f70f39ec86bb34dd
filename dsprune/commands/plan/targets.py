"""One recipe at several targets: the run, its mask updates and its learning rate scale together."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dsprune.commands.plan.make import Plan, make_plan
from dsprune.commands.plan.picture import draw_plans
from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.recipe.timing import log_compression
from dsprune.report.drawing import check_figure_path
from dsprune.report.table import Table, show
from dsprune.schedule.law import max_target, scaled_epochs, scaled_to
from dsprune.utils.console import say
from dsprune.utils.text import MISSING, percent

__all__ = ["plan_targets", "print_max_target"]

LAW = "The law is dsprune's own: the paper's formula could not be read."


def plan_targets(
    recipe: Recipe,
    targets: Sequence[float],
    world_size: int,
    train_examples: int | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Print the length and the mask updates for each target, and draw their timetables in one figure.

    The arguments are the options of `dsprune plan --target`.

    Raises:
        UserError: the recipe does not prune, or a target does not fit it.
    """
    if recipe.pruning is None:
        raise UserError(f"recipe {recipe.name!r}: --target: the recipe prunes nothing: add a section pruning")
    if plot is not None:
        check_figure_path(plot)
    if train_examples is None:
        train_examples = make_plan(recipe, world_size).num_examples  # read and checked once
    plans = [make_plan(scaled_to(recipe, target), world_size, train_examples) for target in sorted(targets)]
    title = f"{recipe.name} at several targets"
    show(_table(plans, title), console)
    say(
        console,
        f"Scaled in proportion to the log compression, ln(1 / (1 - sparsity)), from this recipe at "
        f"{_percent(recipe.pruning.sparsity)}. {LAW}",
    )
    if plot is not None:
        draw_plans({_percent(plan.timetable.updates[-1].sparsity): plan for plan in plans}, title, plot)
        say(console, f"Picture: {plot}")


def print_max_target(
    recipe: Recipe, steps: int, world_size: int, train_examples: int | None, console: Console
) -> None:
    """Print the largest target for a number of steps, by the law.

    Raises:
        UserError: the size of the training data is unknown.
    """
    made = make_plan(recipe, world_size, train_examples)
    if made.num_examples is None:
        raise UserError("--steps: the steps in an epoch are not known: give --train-examples")
    epochs = steps / made.timetable.steps_per_epoch
    target = max_target(epochs)
    text = (
        f"{steps:,} steps are {epochs:.3g} epochs of {made.timetable.steps_per_epoch:,} steps: by the law long enough "
        f"for a target up to {_percent(target)}."
    )
    if recipe.pruning is not None:
        needed = round(scaled_epochs(recipe.pruning.sparsity) * made.timetable.steps_per_epoch)
        text += f" The recipe's {_percent(recipe.pruning.sparsity)} would take {needed:,} steps."
    say(console, f"{text} {LAW}")


def _table(plans: Sequence[Plan], title: str) -> Table:
    columns = (
        "target", "of all weights", "log compression", "steps", "epochs", "updates", "first jump",
        "recovery, steps", "by the law, epochs",
    )  # fmt: skip
    return Table("targets", title, columns, tuple(tuple(_cells(plan)) for plan in plans))


def _cells(plan: Plan) -> Iterator[str]:
    timetable, first, last = plan.timetable, plan.timetable.updates[0], plan.timetable.updates[-1]
    yield _percent(last.sparsity)
    yield percent(plan.num_pruned(last) / plan.num_weights, 1)
    yield f"{log_compression(last.sparsity):.2f}"
    yield f"{timetable.total_steps:,}"
    epochs = timetable.total_steps / timetable.steps_per_epoch
    yield MISSING if plan.num_examples is None else f"{epochs:.3g}"
    yield str(len(timetable.updates))
    yield _percent(first.sparsity)
    yield f"{timetable.total_steps - last.step:,}"
    yield f"{scaled_epochs(last.sparsity):.3g}"


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:.4g} %"
