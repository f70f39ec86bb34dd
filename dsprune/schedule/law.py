"""The schedule law: how training and sparsification scale with the target sparsity.

The law is dsprune's. The paper's guideline is to scale the training, sparsification and learning-rate
schedules with the target, but its formula was not available. The law is fitted to recipes that the authors
published: oBERT's runs of 30 epochs (7 mask updates, the first to 0.7, for targets of 0.8 to 0.97) and those for
MLPerf (the first mask update to 0.25 for a target of 0.5, and to 0.7 for 0.95).

Its unit is the log compression `ln(1 / (1 - sparsity))`, the logarithm of the compression ratio.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, expm1, sqrt

from dsprune.recipe import Recipe, Span, Start
from dsprune.recipe.loading import check_recipe
from dsprune.recipe.rate import LearningRate
from dsprune.recipe.recipe import with_spans
from dsprune.recipe.timing import log_compression

__all__ = [
    "WARMUP",
    "dense_peak",
    "dense_steps",
    "first_sparsity",
    "max_target",
    "recovery_steps",
    "rewinds_at_updates",
    "scaled_epochs",
    "scaled_to",
    "scaled_updates",
]

ALPHA = 0.4
"""Fraction of the target's log compression at the first mask update. The MLPerf recipes give 0.415 (0.25 for
0.5) and 0.402 (0.7 for 0.95); oBERT's first sparsity of 0.7 gives 0.52 for a target of 0.9, and 0.34 for 0.97."""

REFERENCE_SPARSITY, REFERENCE_EPOCHS, REFERENCE_UPDATES = 0.9, 30, 7
"""The oBERT recipe, from which lengths and mask updates are scaled."""

RECOVERY, LONGEST_RECOVERY, RECOVERY_STEPS = Fraction(4, 30), Fraction(4, 10), 40
"""Largest fraction of the run after the last mask update, and the desired number of steps: see `recovery_steps`."""

DENSE = Fraction(2, 30)
"""Fraction of the run before the first mask update; a pretrained model may get more, see `dense_steps`."""

LONGEST_DENSE, DENSE_STEPS = Fraction(3, 10), 300
"""Largest fraction of a pretrained model's run before the first mask update, and the desired number of steps."""

WARMUP: Mapping[Start, Fraction] = {"pretrained": Fraction(1, 2), "fine-tuned": Fraction(1)}
"""Fraction of the dense phase in which the learning rate rises."""

SHORTEST_INTERVAL = 60
"""Smallest number of steps between two mask updates for a learning-rate rewind at each.

After a rewind the loss rises, and needs steps to recover. Measured with Fisher pruning to 90 % from a
fine-tuned model, one seed, with and without rewinds (`scripts/results/recovery`, validation and test split):

- 77 intents, updates 12 steps apart: 84.0 and 86.4, 83.5 and 84.6 %; 41 steps apart: 89.2 and 91.0, 87.7 and 89.9 %
  (the last without the low rate of the dense phase); 125 steps apart: 92.2 and 92.6, 90.7 and 90.6 %.
- Movie reviews, 36 steps apart: 82.5 and 82.4, 84.4 and 83.2 %.

So with a peak that is scaled with the target, rewinds show no gain with one seed, and cost accuracy in short runs. The
published recipes have rewinds, with thousands of steps between two updates. With magnitude at a low rate they help: 40
and 53 steps apart they are 12.4 and 3.2 points ahead of one decay (docs/results-0.1.md).
"""


def rewinds_at_updates(interval: int) -> bool:
    """Return whether to rewind the learning rate at each mask update, given the smallest number of steps between two.

    Examples:
        >>> rewinds_at_updates(41), rewinds_at_updates(11_000)
        (False, True)
    """
    return interval >= SHORTEST_INTERVAL


def first_sparsity(target: float) -> float:
    """Return the sparsity of the first mask update.

    It is `1 - (1 - target) ** ALPHA`, so its log compression is `ALPHA` times that of the target.

    Examples:
        >>> round(first_sparsity(0.9), 3), round(first_sparsity(0.5), 3)
        (0.602, 0.242)
    """
    return float(1 - (1 - target) ** ALPHA)


def dense_steps(start: Start, total_steps: int, steps_per_epoch: int) -> int:
    """Return the number of steps before the first mask update.

    It is 2/30 of the run, the fraction of the oBERT recipe. A pretrained model has to learn the task first: it gets one
    epoch or 300 steps, whichever is longer, but at most 3/10 of the run. Measured with one seed each, accuracy in per
    cent: GTS on MAWPS, 80 % sparse in 480 steps, with 20, 30 and 50 % of the run dense: 52.3, 64.3 and 74.5; 77
    intents, 90 % sparse in 312 steps, with 30 and 50 %: 87.5 and 84.2.

    Examples:
        >>> dense_steps("fine-tuned", 300, 100), [dense_steps("pretrained", e * 100, 100) for e in (1, 5, 30)]
        (20, [30, 150, 300])
        >>> dense_steps("pretrained", 3000, 1000), dense_steps("pretrained", 30_000, 1000)
        (900, 2000)
    """
    shortest = int(DENSE * total_steps)
    if start == "fine-tuned":
        return shortest
    return max(shortest, min(max(steps_per_epoch, DENSE_STEPS), int(LONGEST_DENSE * total_steps)))


def dense_peak(start: Start, rate: LearningRate) -> float:
    """Return the peak of the dense phase, as a fraction of the run's.

    A pretrained model learns the task at the geometric mean of the rate of dense fine-tuning and the peak of the run,
    if the recipe sets the former. Measured against the rate of dense fine-tuning, accuracy on the test split in per
    cent (docs/results.md): 77 intents, 90 % sparse, 86.4 and 85.8 after 312 steps (three seeds), 89.8 and 89.8 after
    936 (one seed); movie reviews, 90 %, 83.3 and 82.4 after 254 steps (three seeds); word problems with a new tree
    decoder, 80 %, 46.9 and 31.0 after 480 steps (one seed). The peak itself was behind the rate of dense fine-tuning
    in two earlier runs: 18.8 and 31.3 of the word problems, 90.2 and 91.0 of the intents (936 steps, validation
    split).

    A fine-tuned model would forget at the full rate. Measured with a student that starts at its teacher: 13 steps at
    the peak cost 1.7 points of 77 intents and 9.2 of movie reviews, at a tenth of it 0.2 and none.
    """
    if start == "fine-tuned":
        return 0.1
    return 1.0 if rate.dense is None or rate.peak is None else min(1.0, sqrt(rate.dense / rate.peak))


def recovery_steps(total_steps: int) -> int:
    """Return the number of steps after the last mask update.

    It is 4/30 of the run, the fraction of the oBERT recipe. A short run gets more, because recovery needs a number of
    steps, not a fraction of the run: 40 steps, but at most 4/10 of the run. Measured with Fisher pruning to 97 % in 94
    steps from a fine-tuned model (`scripts/results/recovery`, 77 intents, three seeds, of 1,540 validation questions):
    81.8 ± 0.6 % with 37 steps, 79.8 ± 0.5 % with 13.

    Examples:
        >>> [recovery_steps(steps) for steps in (30, 94, 200, 300, 3000)]
        [12, 37, 40, 40, 400]
    """
    return max(ceil(RECOVERY * total_steps), min(RECOVERY_STEPS, int(LONGEST_RECOVERY * total_steps)))


def scaled_epochs(target: float) -> float:
    """Return the epochs of a run, which are proportional to the log compression: 30 at a target of 0.9.

    Examples:
        >>> round(scaled_epochs(0.9), 1), round(scaled_epochs(0.5), 1), round(scaled_epochs(0.97), 1)
        (30.0, 9.0, 45.7)
    """
    return REFERENCE_EPOCHS * _relative(target)


def max_target(epochs: float) -> float:
    """Return the highest target for a number of epochs: the inverse of `scaled_epochs`.

    Examples:
        >>> round(max_target(30), 3), round(max_target(9), 3)
        (0.9, 0.499)
    """
    return -expm1(-log_compression(REFERENCE_SPARSITY) * epochs / REFERENCE_EPOCHS)


def scaled_updates(target: float) -> int:
    """Return the number of mask updates, proportional to the log compression: 7 at a target of 0.9, at least 2.

    Examples:
        >>> scaled_updates(0.9), scaled_updates(0.5), scaled_updates(0.97)
        (7, 2, 11)
    """
    return max(2, round(REFERENCE_UPDATES * _relative(target)))


def _relative(target: float) -> float:
    """Return the log compression of a target divided by that of the reference."""
    return log_compression(target) / log_compression(REFERENCE_SPARSITY)


def scaled_to(recipe: Recipe, target: float) -> Recipe:
    """Return a recipe that prunes with another target sparsity, and with its schedule scaled.

    The length of the run, its points in epochs or steps (also those of the learning rate and of the distillation) and
    the number of mask updates are multiplied by the ratio of the targets' log compressions, and the first mask update
    keeps its fraction of the log compression. A peak that the law scales from `learning_rate.dense` is scaled again.
    Distances between mask updates and lengths in percent do not change.
    """
    pruning = recipe.pruning
    assert pruning is not None
    ratio = log_compression(target) / log_compression(pruning.sparsity)
    values = with_spans(recipe, lambda span: _scaled(span, ratio), distances=False)
    values["pruning"]["sparsity"] = target
    if pruning.first:
        values["pruning"]["first"] = 1 - (1 - pruning.first) ** ratio
    if pruning.updates is not None:
        updates = max(2, round(ratio * pruning.updates))
        values["pruning"]["updates"] = updates | (pruning.curve == "alternating")  # | 1: the next odd number
    if recipe.budget.epochs is not None:
        values["budget"]["epochs"] = ratio * recipe.budget.epochs
    if recipe.budget.steps is not None:
        values["budget"]["steps"] = max(1, round(ratio * recipe.budget.steps))
    if recipe.learning_rate.is_scaled_to(pruning.sparsity):
        values["learning_rate"]["peak"] = None  # to be scaled again
    # Validate again, because the parts must still fit together.
    return check_recipe(values)


def _scaled(span: Span, ratio: float) -> Span:
    amount = ratio * span.amount
    return Span(float(round(amount)) if span.unit == "steps" else amount, span.unit)
