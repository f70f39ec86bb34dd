"""`dsprune calibrate --rate`: choose the learning rate by short runs of the recipe, to its target sparsity.

It varies `learning_rate.dense` if the schedule law scales the peak from it, so that the dense phase changes too;
otherwise `learning_rate.peak`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from dsprune.commands.calibrate.recipe_file import check_recipe_file, write_number
from dsprune.commands.plan.make import make_plan
from dsprune.commands.suite.launcher import Launcher, is_finished
from dsprune.errors import UserError
from dsprune.recipe import Recipe, Span, dump_recipe
from dsprune.recipe.recipe import with_spans
from dsprune.report.drawing import check_figure_path, line_style, new_panels, save_figure
from dsprune.report.runs import read_run
from dsprune.report.table import Table, show
from dsprune.schedule import Timetable
from dsprune.train.run_folder import RunFolder
from dsprune.utils.console import say
from dsprune.utils.text import MISSING

__all__ = ["Trial", "calibrate_rate", "search", "shortened"]

MOST_TRIALS = 8


@dataclass(frozen=True)
class Trial:
    """A short run at one learning rate.

    Attributes:
        steps: steps at which the loss was logged.
        losses: the training loss at these steps.
        problem: why the run failed; None if it ended.
    """

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    problem: str | None = None

    @property
    def loss(self) -> float:
        """Mean loss of the last quarter of the run; infinite if it failed."""
        if self.problem is not None or not self.losses:
            return inf
        last = self.losses[-max(1, len(self.losses) // 4) :]
        return sum(last) / len(last)


def calibrate_rate(
    recipe: Recipe,
    steps: int,
    num_ranks: int,
    output: Path | None,
    plot: Path | None,
    write: Path | None,
    console: Console,
) -> None:
    """Run the recipe for a few steps at several rates, and recommend the one with the lowest final loss.

    The arguments are the options of `dsprune calibrate --rate`.

    Raises:
        UserError: the recipe has no rate to begin with, training would refuse it, every run failed, or a file cannot
            be written.
        StoppedError: a run was stopped with a checkpoint.
    """
    if plot is not None:
        check_figure_path(plot)
    field = _field(recipe)
    if write is not None:
        check_recipe_file(write, "learning_rate", field)
    first = getattr(recipe.learning_rate, field)
    if first is None:
        raise UserError(
            f"recipe {recipe.name!r}: --rate: no rate to begin with: give learning_rate.dense or peak"
        )
    timetable = make_plan(recipe, num_ranks).timetable
    launcher = Launcher(output or Path(recipe.output, f"{recipe.name}-rates"), num_ranks)
    trials: dict[float, Trial] = {}

    def loss(rate: float) -> float:
        trials[rate] = _run(shortened(recipe, timetable, rate, steps), launcher)
        say(console, f"learning_rate.{field}={rate:.3g}: loss {trials[rate].loss:.4g}")
        return trials[rate].loss

    best = search(first, loss)
    if trials[best].problem is not None:
        raise UserError(
            f"recipe {recipe.name!r}: --rate: every run failed; the last one: {trials[best].problem}"
        )
    show(_table(trials, best, steps, field), console)
    say(
        console,
        "The rate suits runs of this length: a longer one may need less, so try half as much, or more --steps.",
    )
    if plot is not None:
        save_figure(_draw(trials, best, f"{recipe.name}: learning_rate.{field} = {best:.3g}"), plot)
        say(console, f"Picture: {plot}")
    if write is not None:
        write_number(write, "learning_rate", field, best)
        say(console, f"Recipe: {write}, learning_rate.{field}")


def _field(recipe: Recipe) -> str:
    """Return the rate that is varied."""
    target = recipe.pruning.sparsity if recipe.pruning is not None else 0.0
    return "dense" if recipe.learning_rate.is_scaled_to(target) else "peak"


def search(start: float, loss: Callable[[float], float]) -> float:
    """Return the rate with the lowest loss, among doublings and halvings of a first one.

    It continues until both neighbours of the best rate are worse, with at most `MOST_TRIALS` rates.

    Examples:
        >>> search(1.0, lambda rate: abs(rate - 7))
        8.0
    """
    losses = {rate: loss(rate) for rate in (start / 2, start, start * 2)}
    while True:
        best = min(losses, key=lambda rate: losses[rate])
        missing = [rate for rate in (best / 2, best * 2) if rate not in losses]
        if not missing or len(losses) >= MOST_TRIALS or losses[best] == inf:
            return best
        losses[missing[0]] = loss(missing[0])


def shortened(recipe: Recipe, timetable: Timetable, rate: float, steps: int) -> Recipe:
    """Return the recipe with another rate and length; all spans keep their fraction of the run."""

    def share(span: Span) -> Span:
        part = span.length(timetable.steps_per_epoch, timetable.total_steps) / timetable.total_steps
        return Span(round(100 * part, 6), "%")

    values = with_spans(recipe, share, distances=True)
    values["name"] = f"{recipe.name}-{rate:.3g}"
    values["budget"] |= {"epochs": None, "steps": steps}
    # Without a peak, the law scales it from the dense rate.
    values["learning_rate"] |= {"peak": None, _field(recipe): rate}
    values["checkpoints"] |= {"every": f"{steps} steps", "keep": 1}
    values["tracking"] |= {"wandb": False, "log_every": max(1, steps // 20), "eval_every": f"{steps} steps"}
    return Recipe.model_validate(values)


def _run(recipe: Recipe, launcher: Launcher) -> Trial:
    """Run a recipe, unless it is finished already."""
    folder = launcher.output / recipe.name
    recipe = recipe.model_copy(update={"output": str(launcher.output)})
    if not is_finished(RunFolder(folder), recipe):
        try:
            launcher.run("train", recipe.name, dump_recipe(recipe))
        except UserError as error:
            return Trial(problem=str(error))
    steps, losses = read_run(folder).series("loss")
    return Trial(tuple(steps), tuple(losses))


def _table(trials: Mapping[float, Trial], best: float, steps: int, field: str) -> Table:
    rates = sorted(trials)
    title = f"Runs of {steps} steps to the target sparsity"
    columns = ("", f"learning_rate.{field}", "loss of the last quarter", "problem")
    rows = tuple(tuple(_cells(rate, trials[rate], best)) for rate in rates)
    return Table("rates", title, columns, rows, emphasis=frozenset([rates.index(best)]))


def _cells(rate: float, trial: Trial, best: float) -> Iterator[str]:
    yield "->" if rate == best else ""
    yield f"{rate:.3g}"
    yield MISSING if trial.loss == inf else f"{trial.loss:.4g}"
    yield trial.problem or ""


def _draw(trials: Mapping[float, Trial], best: float, title: str) -> Figure:
    """Draw the loss over the steps, with one line per rate; the recommended one is thick."""
    figure, [axes] = new_panels(["loss"], "step", height=4.0, title=title)
    known = [rate for rate in sorted(trials) if trials[rate].loss < inf]
    for number, rate in enumerate(known):
        label = f"{rate:.3g}: {trials[rate].loss:.3g} at the end"
        width = 2.4 if rate == best else 1.0
        axes.plot(trials[rate].steps, trials[rate].losses, label=label, lw=width, **line_style(number))
    axes.legend(fontsize=8.5, frameon=False)
    return figure
