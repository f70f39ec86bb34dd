"""Sections of the recipe that the schedule is made from: the budget, the pruning, the learning rate."""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from dsprune.recipe.sections import Fraction, Named, Section
from dsprune.recipe.span import Span
from dsprune.registry import CURVES, METHODS, SCOPES

__all__ = ["Budget", "LearningRate", "Pruning"]

Glob = Annotated[str, Field(min_length=1)]


class Budget(Section):
    """How long to train, and on how many examples at a time."""

    epochs: float | None = Field(default=None, gt=0)
    """Length of the run in epochs. With neither epochs nor steps it follows from the target sparsity."""

    steps: int | None = Field(default=None, ge=1)
    """Length of the run in optimizer steps."""

    batch: int = Field(ge=1)
    """Examples per optimizer step, over all ranks."""

    micro_batch: int | None = Field(default=None, ge=1)
    """Examples per rank and forward pass, the rest being accumulated; null = batch / number of ranks."""

    @field_validator("steps")
    @classmethod
    def _epochs_or_steps(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if steps is not None and info.data.get("epochs") is not None:
            raise ValueError("the run has one length: leave out budget.epochs or budget.steps")
        return steps

    @field_validator("micro_batch")
    @classmethod
    def _divides_batch(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch is not None and batch is not None and batch % micro_batch:
            raise ValueError(f"must divide budget.batch, which is {batch}")
        return micro_batch


class Pruning(Section):
    """Which weights go, how many, and when."""

    sparsity: float = Field(gt=0, lt=1)
    """Target: fraction of the prunable weights that are zero at the end."""

    curve: Annotated[str, Named(CURVES)] = "cubic"
    """How the sparsity grows from the first mask update to the last; one-shot has one mask update, at `start`."""

    first: float | None = Field(default=None, ge=0, lt=1)
    """Sparsity where the curve begins, at `start`. Above 0 it is a jump, and so the first mask update; if it is 0,
    nothing happens at `start` itself. Null = what the law gives for the target."""

    start: Span | None = None
    """Where the curve begins, and the dense phase ends; null = 2/30 of the run."""

    end: Span | None = None
    """The last mask update, always exactly on the target; null = 26/30 of the run."""

    updates: int | None = Field(default=None, ge=2)
    """Number of mask updates, evenly spaced; null = what the law gives for the target."""

    every: Span | None = None
    """Distance between mask updates, instead of their number. Counted from the jump where there is one (start,
    start + every, ...), and from the first step of the run if `first` is 0 (the multiples of `every` after
    `start`). The last mask update is at `end` either way."""

    method: Annotated[str, Named(METHODS)] = "magnitude"
    """What scores the weights; the lowest scores go first."""

    scope: Annotated[str, Named(SCOPES)] = "global"
    """Who competes: all prunable weights (global), those of each tensor (uniform), or all of them after each
    tensor's scores are divided by their norm (normalized)."""

    include: tuple[Glob, ...] = ()
    """Prune the parameters with these names too, beside the linear weights of the encoder or decoder."""

    exclude: tuple[Glob, ...] = ()
    """Keep the parameters with these names dense."""

    sparsities: dict[Glob, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """Targets of their own for the parameters with these names, as fractions."""

    @field_validator("first")
    @classmethod
    def _below_target(cls, first: float | None, info: ValidationInfo) -> float | None:
        target = info.data.get("sparsity")
        if first is not None and target is not None and first >= target:
            raise ValueError(f"must be less than the target pruning.sparsity, which is {target}")
        return first

    @field_validator("end")
    @classmethod
    def _end_after_start(cls, end: Span | None, info: ValidationInfo) -> Span | None:
        start = info.data.get("start")
        if end and start and end.unit == start.unit and end.amount <= start.amount:
            raise ValueError(f"must be later than pruning.start, which is {start}")
        return end

    @field_validator("every")
    @classmethod
    def _updates_or_every(cls, every: Span | None, info: ValidationInfo) -> Span | None:
        if every is not None and every.amount == 0:
            raise ValueError("must be longer than nothing")
        if every is not None and info.data.get("updates") is not None:
            raise ValueError("leave out pruning.updates or pruning.every: the one gives the other")
        return every

    @field_validator("first", "end", "updates", "every")
    @classmethod
    def _one_shot_is_one_update(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("curve") == "one-shot":
            raise ValueError(
                "one-shot has one mask update, at pruning.start: leave this out or choose another curve"
            )
        return value


class LearningRate(Section):
    """The learning rate over the run. All but `peak` and `warmup` are fractions of the peak."""

    peak: float | None = Field(default=None, gt=0)
    """Highest learning rate; null = the one that the optimizer was made with."""

    scale: dict[Glob, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors on the peak for the parameters with these names: `{"*.encoder.*": 0.01}` trains a new decoder a
    hundred times faster than the encoder before it. Of several that match, the first one counts."""

    warmup: Span = Span(0.0, "steps")
    """Length of the linear rise from 0 to the peak."""

    rewind: bool = True
    """Go back to the peak at every mask update; if false, one linear decay from peak to `final` over the run."""

    dense_final: Fraction = 0.1
    """End of the linear decay before the first mask update."""

    interval_final: Fraction = 0.1
    """End of the linear decay from one mask update to the next."""

    final: Fraction = 0.0
    """End of the last linear decay, at the end of the run."""
