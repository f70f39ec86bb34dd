"""The choices of the schedule law for a recipe, and other settings that are worth a try."""

from collections.abc import Iterator

from dsprune.commands.plan.make import Plan
from dsprune.recipe import Pruning, Recipe
from dsprune.recipe.rate import scaled_peak
from dsprune.recipe.recipe import TEMPERATURE
from dsprune.recipe.timing import AT_TARGET
from dsprune.report.table import Table
from dsprune.schedule.law import SHORTEST_INTERVAL
from dsprune.utils.text import percent

__all__ = ["law_table", "sweep_table"]

OTHER = {
    "fisher": "magnitude",
    "rigl": "set",
    "set": "rigl",
    "snip": "empirical-fisher",
    "empirical-fisher": "snip",
}
"""Another method for the same recipe, by method; `fisher` for those that are not listed."""


def law_table(plan: Plan) -> Table:
    """Return the settings that the recipe leaves to the schedule law, with their values and reasons."""
    columns = ("setting", "value", "why")
    return Table("law", "Chosen by the schedule law", columns, tuple(_choices(plan)), words=True)


def _choices(plan: Plan) -> Iterator[tuple[str, str, str]]:
    if plan.recipe.pruning is not None:
        yield from _of_the_run(plan)
        yield from _of_pruning(plan, plan.recipe.pruning)
        yield from _of_the_rate(plan, plan.recipe.pruning)


def _of_the_run(plan: Plan) -> Iterator[tuple[str, str, str]]:
    recipe, timetable, start = plan.recipe, plan.timetable, plan.recipe.start
    if recipe.budget.steps is None and recipe.budget.epochs is None:
        epochs = timetable.total_steps / timetable.steps_per_epoch
        yield "budget.epochs", f"{epochs:.3g}", "30 at a target of 90 %, in proportion to the log compression"
    if recipe.model is not None and recipe.model.start is None:
        owner = (
            "the model is its own teacher" if start == "fine-tuned" else "the model is not its own teacher"
        )
        yield "model.start", start, owner
    if recipe.model is not None and recipe.model.dropout is None:
        yield "model.dropout", "0", "zeros and a teacher regularise, and dropout slows a short run down"
    if recipe.distillation is not None and "temperature" not in recipe.distillation.model_fields_set:
        slow = "softened logits are slow to learn a task from"
        why = (
            "softened logits say more where the teacher is close to the student"
            if start == "fine-tuned"
            else slow
        )
        yield "distillation.temperature", f"{TEMPERATURE[start].first:g}", f"{start}: {why}"


def _of_pruning(plan: Plan, pruning: Pruning) -> Iterator[tuple[str, str, str]]:
    timetable, start = plan.timetable, plan.recipe.start
    if pruning.start is None:
        why = (
            "2/30 of the run"
            if start == "fine-tuned"
            else "one epoch or 300 steps, but 2/30 to 3/10 of the run"
        )
        yield "pruning.start", f"step {timetable.updates[0].step}", f"{start}: {why}"
    if pruning.curve == "one-shot":
        return
    if pruning.first is None and pruning.curve not in AT_TARGET:
        why = "0.4 of the target's log compression"
        yield "pruning.first", percent(timetable.updates[0].sparsity, 1), why
    if pruning.updates is None and pruning.every is None:
        why = "7 at a target of 90 %, in proportion to the log compression"
        yield "pruning.updates", str(len(timetable.updates)), why
    if pruning.end is None:
        why = "recovery takes 4/30 of the run, in a short run 40 steps, at most 4/10"
        yield "pruning.end", f"step {timetable.updates[-1].step}", why


def _of_the_rate(plan: Plan, pruning: Pruning) -> Iterator[tuple[str, str, str]]:
    timetable, rate, start = plan.timetable, plan.recipe.learning_rate, plan.recipe.start
    if rate.warmup is None:
        why = "the dense phase" if start == "fine-tuned" else "half of the dense phase"
        yield "learning_rate.warmup", f"{timetable.warmup_steps} steps", f"{start}: {why}"
    if rate.rewind is None:
        apart = "or more steps apart" if timetable.rewind else "steps apart, too few for a return to the peak"
        why = f"mask updates are {'' if timetable.rewind else 'less than '}{SHORTEST_INTERVAL} {apart}"
        yield "learning_rate.rewind", str(timetable.rewind).lower(), why
    if rate.dense_peak is None:
        why = (
            "it would forget at the full rate"
            if start == "fine-tuned"
            else "between the rate of dense fine-tuning and the peak"
        )
        yield "learning_rate.dense_peak", f"{timetable.dense_peak:.3g}", f"{start}: {why}"
    if rate.is_scaled_to(pruning.sparsity):
        why = f"{scaled_peak(1.0, pruning.sparsity):.2g} x learning_rate.dense = 1 + ln(1 / (1 - sparsity))"
        yield "learning_rate.peak", f"{rate.peak:.2e}", why


def sweep_table(plan: Plan) -> Table:
    """Return other settings that are worth a try, as overrides of the recipe."""
    rows = tuple(_neighbours(plan.recipe))
    return Table("sweep", "Other settings worth a try", ("override", "why"), rows, words=True)


def _neighbours(recipe: Recipe) -> Iterator[tuple[str, str]]:
    pruning, rate, budget = recipe.pruning, recipe.learning_rate, recipe.budget
    if rate.peak is not None:
        yield (
            f"learning_rate.peak={rate.peak / 2:.2g}",
            "if the loss jumps at mask updates, or there are few data",
        )
        yield f"learning_rate.peak={rate.peak * 2:.2g}", "if accuracy is still rising at the end"
    if recipe.model is not None and recipe.dropout == 0:
        yield "model.dropout=model", "if validation gets worse late in a long run: the model's own dropout"
    if pruning is not None:
        yield f"pruning.method={OTHER.get(pruning.method, 'fisher')}", "another score"
        if pruning.scope == "global":
            yield "pruning.scope=uniform", "if single layers lose nearly all their weights"
    if budget.steps is not None:
        yield f"budget.steps={2 * budget.steps}", "more recovery, which helps most at high targets"
    elif budget.epochs is not None:
        yield f"budget.epochs={2 * budget.epochs:g}", "more recovery, which helps most at high targets"
    if recipe.distillation is None:
        yield ("distillation.teacher=MODEL", "a fine-tuned dense model of the same task as its teacher")
    elif recipe.distillation.hardness.final > 0.5:
        yield "distillation.hardness=0.5", "if the teacher is weak, its training data few, or the run short"
    else:
        yield "distillation.hardness=1", "the teacher alone, in a long run"
