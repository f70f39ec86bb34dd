"""One recipe at several targets: training, sparsification and learning rate stretch together."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from dsprune.commands.plan.make import Plan, make_plan
from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.report.drawing import check_figure_path, save_figure
from dsprune.schedule.law import log_compression, max_target, scaled_epochs, scaled_to
from dsprune.utils.console import say

__all__ = ["plan_targets", "print_max_target"]

COLOURS = ("#2c5f8a", "#b8442c", "#4f7f35", "#7d5391", "#b3801b", "#2f8581")


QUIET = "#606060"


def plan_targets(
    recipe: Recipe,
    targets: Sequence[float],
    world_size: int,
    train_examples: int | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Print what each target takes, and draw their schedules over one another.

    Args:
        recipe: its own target is the one that its budget is for; see `scaled_to`.
        targets: fractions of zeros.
        world_size: number of ranks.
        train_examples: size of the training data; None = count the recipe's own.
        plot: PNG or SVG file for the picture; None = none.
        console: where to print.

    Raises:
        UserError: the recipe does not prune, or a target does not fit it.
    """
    if recipe.pruning is None:
        raise UserError(f"recipe {recipe.name!r}: --target: the recipe prunes nothing: add a section pruning")
    if plot is not None:
        check_figure_path(plot)
    made = [make_plan(scaled_to(recipe, target), world_size, train_examples) for target in sorted(targets)]
    console.print(_table(made))
    console.print(
        f"Scaled in proportion to the log compression, ln(1 / (1 - sparsity)), from this recipe at "
        f"{_percent(recipe.pruning.sparsity)}. The law is dsprune's own: the paper's formula could not be read.",
        markup=False, highlight=False,
    )  # fmt: skip
    if plot is not None:
        save_figure(_figure(made), plot)
        say(console, f"Picture: {plot}")


def print_max_target(
    recipe: Recipe, steps: int, world_size: int, train_examples: int | None, console: Console
) -> None:
    """Print which target a number of steps is long enough for, by the law.

    Raises:
        UserError: the size of the training data is not known.
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
    text += " The law is dsprune's own: the paper's formula could not be read."
    console.print(text, markup=False, highlight=False)


def _table(made: Sequence[Plan]) -> Table:
    table = Table(
        title=f"{made[0].recipe.name} at several targets", title_justify="left", box=box.SIMPLE_HEAD
    )
    columns = (
        "target",
        "of all weights",
        "log compression",
        "steps",
        "epochs",
        "updates",
        "first jump",
        "recovery, steps",
    )
    for column in (*columns, "by the law, epochs"):
        table.add_column(column, justify="right")
    for plan in made:
        timetable, updates = plan.timetable, plan.timetable.updates
        target = updates[-1].sparsity
        in_epochs = plan.num_examples is not None
        table.add_row(
            _percent(target),
            f"{plan.num_pruned(updates[-1]) / plan.num_weights:.1%}",
            f"{log_compression(target):.2f}",
            f"{timetable.total_steps:,}",
            f"{timetable.total_steps / timetable.steps_per_epoch:.3g}" if in_epochs else "-",
            str(len(updates)),
            _percent(updates[0].sparsity),
            f"{timetable.total_steps - updates[-1].step:,}",
            f"{scaled_epochs(target):.3g}",
        )
    return table


def _figure(made: Sequence[Plan]) -> Figure:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    in_epochs = all(plan.num_examples is not None for plan in made)
    for number, plan in enumerate(made):
        _draw(above, below, plan, in_epochs, COLOURS[number % len(COLOURS)])
    for axes, text in ((above, "sparsity of the\nprunable weights, %"), (below, "learning rate")):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=QUIET, labelsize=8)
        axes.set_ylabel(text, color=QUIET, fontsize=9)
        axes.set_ylim(bottom=0)
    above.set_ylim(0, 100)
    above.legend(fontsize=8, frameon=False, loc="lower right")
    below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    below.set_xlabel("epoch" if in_epochs else "step", color=QUIET)
    below.set_xlim(left=0)
    figure.suptitle(
        f"{made[0].recipe.name} at several targets", x=0.01, ha="left", fontsize=11, weight="bold"
    )
    return figure


def _draw(above: Axes, below: Axes, plan: Plan, in_epochs: bool, colour: str) -> None:
    timetable = plan.timetable
    unit = timetable.steps_per_epoch if in_epochs else 1
    edges = [0, *(update.step for update in timetable.updates), timetable.total_steps]
    heights = [0.0, *(100 * update.sparsity for update in timetable.updates)]
    label = _percent(timetable.updates[-1].sparsity)
    above.stairs(heights, [edge / unit for edge in edges], baseline=None, color=colour, lw=1.8, label=label)
    steps, peak = timetable.lr_corners(), plan.recipe.learning_rate.peak or 1
    rates = [peak * timetable.lr_multiplier(step) for step in steps]
    below.plot([step / unit for step in steps], rates, color=colour, lw=1.3)


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:.4g} %"
