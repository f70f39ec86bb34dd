"""Sections of the recipe that determine length and mask updates: budget and pruning.

The literal under each field is its documentation and its description in the JSON schema.
"""

from math import log1p
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from dsprune.recipe.pattern import UNSTRUCTURED, Pattern, check_pattern
from dsprune.recipe.section import LARGEST, Count, Glob, Named, Positive, Section, Sparsity
from dsprune.recipe.span import PositiveSpan, Span
from dsprune.registry import CURVES, METHODS, SCOPES

__all__ = ["AT_TARGET", "Budget", "Pruning", "Start", "log_compression"]

AT_TARGET = ("constant", "alternating")
"""Curves whose first mask update reaches the target."""

ROUNDING = 5e-4
"""Rounding error of a sparsity with three digits."""

Start = Literal["pretrained", "fine-tuned"]
"""Whether the model at the start of a run is already fine-tuned for the task."""


def log_compression(sparsity: float) -> float:
    """Return ln(1 / (1 - sparsity)), the log of the compression ratio.

    Examples:
        >>> round(log_compression(0.9), 4), round(log_compression(0.99), 4)
        (2.3026, 4.6052)
    """
    return -log1p(-sparsity)


class Budget(Section):
    """Length of the run and batch size."""

    epochs: Positive | None = None
    """Length of the run in epochs. Default: null = `steps`; if that is null too, the length that the schedule law
    gives for the target sparsity."""

    steps: Count | None = None
    """Length of the run in optimizer steps. Default: null = see `epochs`."""

    batch: Count
    """Examples per optimizer step, summed over all ranks."""

    micro_batch: Count | None = None
    """Examples per rank and forward pass; gradients are accumulated up to `batch`. Default: null = `batch` divided
    by the number of ranks, without accumulation."""

    @field_validator("steps")
    @classmethod
    def _epochs_or_steps(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if steps is not None and info.data.get("epochs") is not None:
            raise ValueError(
                "the run has one length: leave out budget.epochs or budget.steps, or set it to null"
            )
        return steps

    @field_validator("micro_batch")
    @classmethod
    def _divides_batch(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch is not None and batch is not None and batch % micro_batch:
            raise ValueError(f"must divide budget.batch, which is {batch}")
        return micro_batch


class Pruning(Section):
    """Which weights are pruned, how many, and when."""

    sparsity: Sparsity
    """Target sparsity: fraction of the prunable weights that are zero at the end."""

    curve: Annotated[str, Named(CURVES)] = "cubic"
    """How the sparsity grows from `start` to `end`; `one-shot` has a single mask update, at `start`; `constant` is the
    target at every mask update, for methods that let weights grow back; `alternating` prunes to the target and lets
    all weights grow back in turn (AC/DC). Default: `cubic`."""

    first: float | None = Field(default=None, ge=0, lt=1)
    """Sparsity at `start`, where the curve begins. Above 0, the jump to it is the first mask update; at 0, there is
    no mask update at `start`. Default: null = what the schedule law gives for the target."""

    start: Span | None = None
    """Where the dense phase ends and the curve begins. Default: null = what the schedule law gives for `model.start`
    and the length of the run."""

    end: Span | None = None
    """Where the last mask update is, which reaches the target exactly. Default: null = 4/30 of the run
    before its end, and in a short run 40 steps before it, but at most 4/10."""

    updates: int | None = Field(default=None, ge=2, le=LARGEST)
    """Number of evenly spaced mask updates. Default: null = what the schedule law gives for the target, or as many as
    fit into the run."""

    every: PositiveSpan | None = None
    """Distance between mask updates, as an alternative to `updates`. It counts from `start` if there is a jump
    (start, start + every, ...), and from the first step of the run if `first` is 0 (the multiples of `every`
    after `start`). The last mask update is at `end` in both cases. Default: null = `updates` is used."""

    method: Annotated[str, Named(METHODS)] = "fisher"
    """How weights are scored; the lowest scores are pruned first. `magnitude` is gradual magnitude pruning; `fisher`
    also reads the optimizer's second moments, `wanda` the inputs of matrices; `rigl` and `set` let weights grow back.
    Default: `fisher`."""

    first_method: Annotated[str, Named(METHODS)] | None = None
    """Methods that let weights grow back (`rigl`, `set`): the method that makes the first mask, such as `snip` or
    `random`; nothing grows back then. Default: null = `method`, which drops and grows there too."""

    window: Count | None = None
    """Methods that accumulate from one mask update to the next (`snip`, `empirical-fisher`, `obert`, `wanda`): number
    of last steps that count, the step of the mask update included. Default: null = all since the mask update before."""

    drop: float | None = Field(default=None, gt=0, lt=1)
    """Methods that let weights grow back (`rigl`, `set`): fraction of the kept weights that the first mask update drops
    and grows again; it falls to 0 at the last. Default: null = 0.3."""

    damping: float | None = Field(default=None, gt=0, le=LARGEST)
    """Method `obert`: added to the diagonal of the Fisher matrix. Default: null = 1e-7."""

    recomputations: int | None = Field(default=None, ge=1, le=1000)
    """Method `obert`: parts into which a mask update is divided; the scores are computed again before each. Default:
    null = 4."""

    scope: Annotated[str, Named(SCOPES)] = "global"
    """Which weights are ranked together: all prunable weights (global), those of each tensor (uniform), or all of
    them with scores divided by the root mean square of their tensor's scores (normalized). `erk` ranks those of each
    tensor, and keeps the more of a matrix, the smaller it is (Erdos-Renyi kernel). `row` ranks those of each row, so
    every output keeps the same number of inputs (fixed fan-in). Default: `global`; with method `wanda`, `row`."""

    pattern: Annotated[str, AfterValidator(check_pattern)] = UNSTRUCTURED.text
    """Which weights of a matrix are pruned together: each by itself (unstructured); `N:M` keeps the N highest scores of
    every M neighbouring inputs, as in `"2:4"`; blocks of HEIGHTxWIDTH weights, outputs x inputs, such as `1x4`, `4x1`
    or `16x16`; or whole outputs (rows). Default: `unstructured`."""

    only: tuple[Glob, ...] = ()
    """Glob patterns of the matrices to prune, in place of those of the encoder and decoder blocks. Norms and biases
    that match stay dense. Default: none = the matrices of the blocks."""

    include: tuple[Glob, ...] = ()
    """Glob patterns of parameters to prune in addition to the linear weights of the encoder and decoder blocks.
    Default: none."""

    exclude: tuple[Glob, ...] = ()
    """Glob patterns of parameters to keep dense, applied after `include`. Default: none."""

    sparsities: dict[Glob, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """Target sparsity by glob pattern, for parameters with a target of their own; the first match counts. Default:
    none."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_sparsity_is_exact(cls, values: Any) -> Any:
        """Replace a rounded sparsity, such as 0.667 of 1:3, by the exact one of the pattern."""
        given = values if isinstance(values, dict) else {}
        fixed, sparsity = _fixed_sparsity(given.get("pattern")), given.get("sparsity")
        is_near = fixed is not None and isinstance(sparsity, float) and abs(sparsity - fixed) < ROUNDING
        return {**values, "sparsity": fixed} if is_near else values

    @model_validator(mode="before")
    @classmethod
    def _wanda_ranks_rows(cls, values: Any) -> Any:
        """Set the scope of a recipe with `wanda` that has none."""
        given = values if isinstance(values, dict) else {}
        is_open = given.get("method") == "wanda" and given.get("pattern") != "rows" and "scope" not in given
        return {**values, "scope": "row"} if is_open else values

    @field_validator("pattern")
    @classmethod
    def _pattern_fits_target_and_scope(cls, text: str, info: ValidationInfo) -> str:
        fixed, target = _fixed_sparsity(text), info.data.get("sparsity")
        if fixed is not None and target not in (None, fixed):
            raise ValueError(
                f"prunes {fixed:.4g} of the weights, and the target pruning.sparsity is {target}: set that to "
                f"{fixed:.4g}, or choose another pattern"
            )
        if text == "rows" and info.data.get("scope") == "row":
            raise ValueError("prunes whole rows, and pruning.scope: row keeps weights in each: choose one")
        return text

    @field_validator("sparsities")
    @classmethod
    def _pattern_gives_targets(cls, targets: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        text = info.data.get("pattern")
        if _fixed_sparsity(text) is not None and (wrong := [glob for glob in targets if targets[glob]]):
            raise ValueError(
                f"pruning.pattern {text!r} prunes all tensors alike, and {wrong[0]!r} has a target of "
                f"{targets[wrong[0]]}: leave it out, or name the tensors in pruning.exclude"
            )
        return targets

    @field_validator("first")
    @classmethod
    def _below_target(cls, first: float | None, info: ValidationInfo) -> float | None:
        target = info.data.get("sparsity")
        if first is not None and target is not None and first >= target:
            raise ValueError(f"must be less than the target pruning.sparsity, which is {target}")
        if first is not None and (curve := info.data.get("curve")) in AT_TARGET:
            raise ValueError(f"{curve} has the target at the first mask update: leave this out")
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
        if every is not None and info.data.get("updates") is not None:
            raise ValueError("leave out pruning.updates or pruning.every: each determines the other")
        return every

    @field_validator("first", "end", "updates", "every")
    @classmethod
    def _one_shot_is_one_update(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("curve") == "one-shot":
            raise ValueError(
                "one-shot has one mask update, at pruning.start: leave this out or choose another curve"
            )
        return value


def _fixed_sparsity(text: Any) -> float | None:
    """Return the only final sparsity of a pattern; None if any is possible, or if it is not a pattern."""
    try:
        pattern = Pattern.parse(str(text))
    except ValueError:
        return None
    return pattern.sparsity if pattern.kept else None
