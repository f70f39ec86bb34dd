"""Build the timetable of a run from its recipe."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from dsprune.errors import UserError
from dsprune.recipe import Budget, Distillation, LearningRate, Pruning, Recipe, Span, Start
from dsprune.registry import CURVES
from dsprune.schedule.law import (
    WARMUP,
    dense_peak,
    dense_steps,
    first_sparsity,
    recovery_steps,
    rewinds_at_updates,
    scaled_epochs,
    scaled_updates,
)
from dsprune.schedule.timetable import MaskUpdate, Timetable

__all__ = ["build_timetable", "recipe_timetable"]


MOST_UPDATES = 100_000
"""Largest number of mask updates; every checkpoint holds the timetable."""


def recipe_timetable(recipe: Recipe, steps_per_epoch: int | None) -> Timetable:
    """Return the timetable of a recipe; see `build_timetable`."""
    parts = recipe.pruning, recipe.learning_rate, recipe.budget
    return build_timetable(*parts, steps_per_epoch, recipe.start, recipe.distillation)


def build_timetable(
    pruning: Pruning | None,
    learning_rate: LearningRate,
    budget: Budget,
    steps_per_epoch: int | None,
    start: Start = "pretrained",
    distillation: Distillation | None = None,
) -> Timetable:
    """Return the timetable of a run.

    For a run of T steps (from the budget, or else the schedule law's number of epochs for the target):

    * without pruning there are no mask updates;
    * a one-shot curve has its mask update at `start` (default `dense_steps` of the law), and it reaches the target;
    * any other curve goes from sparsity s0 at `start` to the target at `end` (default `recovery_steps` before
      T). The last mask update is at `end`; an earlier one at step t has sparsity `curve((t - start) / (end - start))`.
      Mask updates are evenly spaced, or on the grid of `every`. If s0 > 0, the jump to s0 is the first mask update, and
      the grid begins there. If s0 = 0, there is no mask update at `start`, and the grid is the multiples of `every`.
    * the curve `alternating` has an odd number of mask updates: the first, third, ... and last reach the target, and
      those between have sparsity 0.

    Args:
        pruning: the pruning section; None for dense fine-tuning.
        learning_rate: the learning-rate section.
        budget: the budget section.
        steps_per_epoch: optimizer steps per epoch. None = unknown, 0 = an epoch has no complete step: the run counts
            as one epoch, and a recipe with lengths in epochs is an error.
        start: whether the model is fine-tuned already, for the schedule law.
        distillation: the distillation section, whose lengths are converted by the timetable; None = no distillation.

    Raises:
        UserError: the parts do not fit into the run, two mask updates fall on the same step, or the number of mask
            updates does not fit the curve.

    Examples:
        >>> pruning = Pruning(sparsity=0.9, first=0.7)
        >>> timetable = build_timetable(pruning, LearningRate(), Budget(batch=32), 100, "fine-tuned")
        >>> [update.step for update in timetable.updates], timetable.total_steps
        ([200, 600, 1000, 1400, 1800, 2200, 2600], 3000)
    """
    if steps_per_epoch is None or steps_per_epoch < 1:
        _refuse_epochs(pruning, learning_rate, budget, distillation, is_known=steps_per_epoch is not None)
        steps_per_epoch = budget.steps or 1
    run = _Run(steps_per_epoch, _total_steps(pruning, budget, steps_per_epoch))
    updates = _updates(pruning, start, run) if pruning else ()
    warmup = int(WARMUP[start] * updates[0].step) if updates else 0
    rewind, peak = learning_rate.rewind, learning_rate.dense_peak
    rewinds = {run.position("learning_rate.rewind_at", span, 0) for span in learning_rate.rewind_at}
    return Timetable(
        total_steps=run.total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=run.position("learning_rate.warmup", learning_rate.warmup, warmup),
        updates=updates,
        rewind=rewinds_at_updates(_interval(updates, run.total_steps)) if rewind is None else rewind,
        dense_final=learning_rate.dense_final,
        interval_final=learning_rate.interval_final,
        final=learning_rate.final,
        dense_peak=dense_peak(start, learning_rate) if peak is None else peak,
        rewinds=tuple(sorted(rewinds - {0})),
        initial=learning_rate.initial,
        curve=learning_rate.curve,
        hold=run.distance("learning_rate.hold", learning_rate.hold) or 1,
        decay_every=run.distance("learning_rate.decay_every", learning_rate.decay_every) or 0,
        decay_factor=learning_rate.decay_factor or 0.5,
    )


class _Run(NamedTuple):
    """The length of a run, to convert spans to steps."""

    steps_per_epoch: int
    total_steps: int

    def position(self, field: str, span: Span | None, default: int) -> int:
        """Return the step of a point of the run, such as `pruning.end` or the end of the warm-up."""
        if span is None:
            return default
        step = span.to_steps(*self)
        if step >= self.total_steps:
            raise UserError(
                f"{field}: value {span} is step {step} of a run of {self.total_steps} steps: choose an earlier "
                "one or a larger budget"
            )
        return step

    def distance(self, field: str, span: Span | None) -> int | None:
        """Return a distance of one step or more."""
        if span is None:
            return None
        steps = span.to_steps(*self)
        if steps < 1:
            raise UserError(
                f"{field}: value {span} is {span.length(*self):g} steps: must be one step or more"
            )
        return steps


def _interval(updates: Sequence[MaskUpdate], total_steps: int) -> int:
    """Return the smallest number of steps between two mask updates, or after the only one."""
    steps = [update.step for update in updates[1:]] or [total_steps]
    return min(
        (step - update.step for update, step in zip(updates, steps, strict=False)), default=total_steps
    )


def _refuse_epochs(
    pruning: Pruning | None,
    learning_rate: LearningRate,
    budget: Budget,
    distillation: Distillation | None,
    *,
    is_known: bool,
) -> None:
    """Check that every length is in steps or percent; `is_known` is whether an epoch is known to have no step."""
    names = ("warmup", "hold", "decay_every")
    spans: dict[str, Span | None] = {f"learning_rate.{name}": getattr(learning_rate, name) for name in names}
    spans |= {f"learning_rate.rewind_at[{i}]": span for i, span in enumerate(learning_rate.rewind_at)}
    if pruning is not None:
        spans |= {f"pruning.{name}": getattr(pruning, name) for name in ("start", "end", "every")}
    if distillation is not None:
        for name, ramp in (("hardness", distillation.hardness), ("temperature", distillation.temperature)):
            spans |= {f"distillation.{name}.start": ramp.start, f"distillation.{name}.end": ramp.end}
    in_epochs = [f"{field} ({span})" for field, span in spans.items() if span and span.unit == "epochs"]
    if budget.steps is None:
        in_epochs.insert(0, f"budget.epochs ({budget.epochs})")
    if in_epochs:
        why, way_out = (
            "the steps in one are not known",
            "give the training data (to dsprune plan: --train-examples)",
        )
        if is_known:
            why, way_out = "the data have fewer examples than an optimizer step takes", "lower budget.batch"
        raise UserError(f"{', '.join(in_epochs)}: counted in epochs, and {why}: count in steps, or {way_out}")


def _total_steps(pruning: Pruning | None, budget: Budget, steps_per_epoch: int) -> int:
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        epochs = budget.epochs
    elif pruning is not None:
        epochs = scaled_epochs(pruning.sparsity)
    else:
        raise UserError(
            "budget.epochs: value None: without pruning the length must be set: give epochs or steps"
        )
    total_steps = round(epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"budget.epochs: value {epochs:g} is less than one step ({steps_per_epoch} steps per epoch): "
            "give more epochs, or budget.steps"
        )
    return total_steps


def _updates(pruning: Pruning, model_start: Start, run: _Run) -> tuple[MaskUpdate, ...]:
    dense = dense_steps(model_start, run.total_steps, run.steps_per_epoch)
    start = run.position("pruning.start", pruning.start, dense)
    if pruning.curve == "one-shot":
        return (MaskUpdate(start, pruning.sparsity),)
    last = run.total_steps - recovery_steps(run.total_steps)
    end = run.position("pruning.end", pruning.end, last)
    if start >= end:
        raise UserError(
            f"pruning.end: value {end} (in steps) is not after pruning.start, step {start}: move one of them "
            "or give a larger budget"
        )
    first = first_sparsity(pruning.sparsity) if pruning.first is None else pruning.first
    steps = _steps(pruning, start, end, first > 0, run)
    if len(set(steps)) < len(steps):
        raise UserError(
            f"budget: value {run.total_steps} (in steps): {len(steps)} mask updates do not fit between "
            f"step {start} and step {end}, each on its own step: give a larger budget or fewer pruning.updates"
        )
    curve, target = CURVES.get(pruning.curve), pruning.sparsity
    sparsities = [curve((step - start) / (end - start), first, target) for step in steps[:-1]]
    # Rounding errors must neither exceed nor miss the target.
    sparsities = [*(min(sparsity, target) for sparsity in sparsities), target]
    if pruning.curve == "alternating":
        _check_odd(pruning, len(steps))
        sparsities[1::2] = [0.0] * (len(steps) // 2)
    return tuple(map(MaskUpdate, steps, sparsities))


def _check_odd(pruning: Pruning, number: int) -> None:
    """Check that a run that alternates ends sparse."""
    if number % 2:
        return
    field, value = ("every", pruning.every) if pruning.every else ("updates", pruning.updates)
    raise UserError(
        f"pruning.{field}: value {value} makes {number} mask updates, and 'alternating' has an odd number, as the "
        f"first and the last prune: change {'pruning.end by one interval' if pruning.every else 'it by one'}"
    )


def _steps(pruning: Pruning, start: int, end: int, jump: bool, run: _Run) -> list[int]:
    if pruning.every is None:
        fitting = max(2, min(scaled_updates(pruning.sparsity), end - start + jump))
        if pruning.curve == "alternating":
            fitting = max(3, fitting - 1 | 1)  # the next lower odd number
        updates = pruning.updates or fitting
        _check_count(updates, "pruning.updates")
        return _evenly(start, end, updates, jump)
    every = pruning.every.length(*run)
    if every < 1:
        raise UserError(f"pruning.every: value {pruning.every} is {every:g} steps: must be one step or more")
    _check_count(ceil((end - start) / every), "pruning.every")
    return _grid(start, end, every, jump)


def _check_count(updates: int, field: str) -> None:
    if updates > MOST_UPDATES:
        raise UserError(
            f"{field}: value makes {updates:,} mask updates: there can be {MOST_UPDATES:,}: choose fewer of them"
        )


def _evenly(start: int, end: int, num_updates: int, jump: bool) -> list[int]:
    """Return evenly spaced steps up to `end`, from `start` if there is a jump, else from one distance later."""
    num_gaps = num_updates - 1 if jump else num_updates
    return [end - round((end - start) * left / num_gaps) for left in reversed(range(num_updates))]


def _grid(start: int, end: int, every: float, jump: bool) -> list[int]:
    """Return the steps up to `end` on a grid that begins at the jump, or at step 0 if there is no jump.

    Examples:
        >>> _grid(2, 26, 4, jump=True)
        [2, 6, 10, 14, 18, 22, 26]
        >>> _grid(300, 2400, 500, jump=False)
        [500, 1000, 1500, 2000, 2400]
    """
    origin = start if jump else 0
    candidates = [origin + round(i * every) for i in range(1, ceil((end - origin) / every))]
    between = [step for step in candidates if start < step < end]
    return [start, *between, end] if jump else [*between, end]
