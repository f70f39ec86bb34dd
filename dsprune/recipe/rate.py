"""The section `learning_rate` of the recipe.

The literal under each field is its documentation and its description in the JSON schema. How the peak scales with the
target sparsity is here too, as part of the schedule law, `dsprune.schedule.law`.
"""

from math import isclose
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from dsprune.recipe.section import Fraction, Glob, Positive, Section
from dsprune.recipe.span import PositiveSpan, Span
from dsprune.recipe.timing import log_compression

__all__ = ["LearningRate", "RateCurve", "dense_rate", "scaled_peak"]

RateCurve = Literal["linear", "cosine"]
"""How the learning rate rises and decays."""


RATE, WIDTH = 5.0e-5, 768
"""Usual learning rate of Adam for fine-tuning BERT-base, and the width of that model."""


def dense_rate(width: int) -> float:
    """Return a first learning rate for dense fine-tuning, from the width of the model (its hidden size).

    It is 5e-5 at the width of BERT-base, 768, and inversely proportional to the width, a rule of thumb for Adam. It has
    two significant digits.

    A run of a few hundred steps with many classes needs more, which `dsprune calibrate --rate` measures. Accuracy in
    per cent of the tasks of `scripts/results/recovery`, pretrained model of width 384, 90 % sparse, labels alone,
    one seed, validation split; on the 77 intents in 312 steps `calibrate` gives 8e-4 and 84.4:

        ====================  =====  ====  ====  ====  ====
        task                  steps  1e-4  2e-4  3e-4  5e-4
        ====================  =====  ====  ====  ====  ====
        77 intents              312  69.2  81.9  87.4  86.5
        77 intents              936  91.6        91.0
        movie reviews           100  77.4        74.9
        movie reviews           254  81.3  81.1  79.6
        ====================  =====  ====  ====  ====  ====

    Examples:
        >>> [dense_rate(width) for width in (384, 768, 4096)]
        [0.0001, 5e-05, 9.4e-06]
    """
    return float(f"{RATE * WIDTH / width:.1e}")


def scaled_peak(dense: float, target: float) -> float:
    """Return the peak learning rate for a target sparsity, from the rate of dense fine-tuning.

    It is `dense * (1 + ln(1 / (1 - target)))`: the rate of dense fine-tuning at a target of 0, and 3.3 times that
    at 0.9. A sparse model has fewer weights, and has to move them further.

    Examples:
        >>> [round(scaled_peak(1.0, target), 1) for target in (0.0, 0.5, 0.9, 0.97)]
        [1.0, 1.7, 3.3, 4.5]
    """
    return dense * (1 + log_compression(target))


class LearningRate(Section):
    """The learning rate over the run. The values named `initial` and `final` are fractions of the peak."""

    dense: float | None = Field(default=None, gt=0, le=1000)
    """Learning rate that suits dense fine-tuning of the model. The schedule law scales the peak from it. Default: null
    = unknown."""

    peak: float | None = Field(default=None, gt=0, le=1000)
    """Highest learning rate. Default: null = `dense`, scaled with the target sparsity by the schedule law; without
    `dense`, the learning rate that the optimizer was created with."""

    scale: dict[Glob, Positive] = Field(default_factory=dict)
    """Factor on the peak by glob pattern over parameter names; the first match counts. For example,
    `{"*.encoder.*": 0.01}` trains a new decoder with a hundred times the learning rate of the encoder. Default:
    none."""

    warmup: Span | None = None
    """Length of the rise from `initial` to the peak. Default: null = what the schedule law gives: the dense phase of a
    fine-tuned model, half of that of a pretrained one, and none without pruning."""

    initial: Fraction = 0.0
    """Start of the warm-up, as a fraction of the peak. Default: 0.0."""

    rewind: bool | None = None
    """Return to the peak at every mask update. If false, the learning rate decays from the peak to `final` over the
    run, apart from `rewind_at`. Default: null = what the schedule law gives: true where mask updates are 60 steps apart
    or more."""

    rewind_at: tuple[Span, ...] = ()
    """Further points at which the learning rate returns to the peak, such as those of a dense baseline that is trained
    with the schedule of its pruned counterpart. With `rewind: false` they are the only ones. Default: none."""

    dense_peak: Fraction | None = None
    """Peak before the first mask update, as a fraction of the peak. Default: null = what the schedule law gives for
    `model.start`: for a pretrained model the geometric mean of `dense` and the peak, if `dense` is set, and 0.1 for a
    fine-tuned one."""

    decay_every: PositiveSpan | None = None
    """Step decay: distance at which the learning rate is multiplied by `decay_factor`, counted from the end of the
    warm-up and from each rewind. Default: null = a decay along `curve`."""

    decay_factor: float | None = Field(default=None, gt=0, lt=1)
    """Step decay: see `decay_every`. Default: null = 0.5."""

    curve: RateCurve = "linear"
    """How the learning rate rises and decays: along a line, or along half a cosine. Default: `linear`."""

    hold: PositiveSpan | None = None
    """How long each value of the curve is kept, as by a scheduler that is stepped once an epoch. The first value is the
    start of the curve, the last its end. Default: null = one step."""

    beta_at_peak: float | None = Field(default=None, ge=0, lt=1)
    """Adam's first beta at the peak. It moves along the curve with the learning rate, from the first of
    `optimizer.betas` and back to it, as OneCycle has it. Default: null = it stays the first of `optimizer.betas`."""

    dense_final: Fraction = 0.1
    """End of the decay before the first rewind, as a fraction of that phase's peak. Default: 0.1."""

    interval_final: Fraction = 0.1
    """End of the decay from one rewind to the next, as a fraction of the peak. Default: 0.1."""

    final: Fraction = 0.0
    """End of the last decay, at the end of the run, as a fraction of the peak. Default: 0.0."""

    def is_scaled_to(self, target: float) -> bool:
        """Return whether the peak is the one that the schedule law scales from `dense` for a target sparsity."""
        return self.dense is not None and self.peak == scaled_peak(self.dense, target)

    def is_peak(self, rate: Any) -> bool:
        """Return whether a rate is the peak; a scaled peak counts to the digits that messages show, to be copied."""
        if self.peak is None or not isinstance(rate, int | float):
            return False
        shown = self.dense is not None and f"{rate:.3g}" == f"{self.peak:.3g}"
        return shown or isclose(rate, self.peak, rel_tol=1e-6)

    @property
    def shown_peak(self) -> str:
        """The peak as messages show it, with the dense rate that it may be scaled from."""
        if self.dense is None or self.peak is None:
            return f"learning_rate.peak={self.peak}"
        return f"learning_rate.peak={self.peak:.3g} (learning_rate.dense={self.dense:g})"

    @field_validator("decay_factor")
    @classmethod
    def _factor_of_a_step_decay(cls, factor: float | None, info: ValidationInfo) -> float | None:
        if factor is not None and info.data.get("decay_every", "") is None:
            raise ValueError("has no effect without learning_rate.decay_every: set that, or leave this out")
        return factor

    @field_validator("hold", "beta_at_peak", "dense_final", "interval_final", "final")
    @classmethod
    def _curve_or_step_decay(cls, value: Any, info: ValidationInfo) -> Any:
        every = info.data.get("decay_every")
        if every is not None and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError(
                f"has no effect beside learning_rate.decay_every, which is {every}: leave one of them out"
            )
        return value
