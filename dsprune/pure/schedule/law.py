"""How training and sparsification scale with the target sparsity.

The law is dsprune's own. The paper's guideline is to scale the training, sparsification and learning rate
schedules relative to the target; its formula was not available to us. What stands here was fitted to recipes
that its authors published: oBERT's runs of 30 epochs (7 events, the first to 0.7, for targets of 0.8 to 0.97)
and those for MLPerf (first to 0.25 for 0.5, and to 0.7 for 0.95).

Its unit is *work*, the number of e-foldings of weights that must go.
"""

from fractions import Fraction
from math import expm1, log1p

__all__ = ["DENSE", "LAST_EVENT", "first_sparsity", "scaled_epochs", "scaled_events", "sound_target", "work"]

ALPHA = 0.4
"""Share of the work that the first event does. The published first steps give 0.415 (0.25 for 0.5) and 0.402
(0.7 for 0.95); oBERT's 0.7 for 0.9 and 0.97 gives 0.52 and 0.34."""

REFERENCE_SPARSITY, REFERENCE_EPOCHS, REFERENCE_EVENTS = 0.9, 30, 7

DENSE = Fraction(2, 30)
"""Share of the run before the first event."""

LAST_EVENT = Fraction(26, 30)
"""Share of the run before the last event."""


def work(sparsity: float) -> float:
    """Work to reach a sparsity from a dense model: ln(1 / (1 - sparsity)).

    Examples:
        >>> round(work(0.9), 4), round(work(0.99), 4)  # each further nine costs the same
        (2.3026, 4.6052)
    """
    return -log1p(-sparsity)


def first_sparsity(target: float, alpha: float = ALPHA) -> float:
    """Sparsity of the first event, which does the share `alpha` of the work.

    More precisely: `1 - (1 - target) ** alpha`, so that `work(first_sparsity(s)) == alpha * work(s)`.

    Examples:
        >>> round(first_sparsity(0.9), 3), round(first_sparsity(0.5), 3)
        (0.602, 0.242)
    """
    return 1 - (1 - target) ** alpha


def scaled_epochs(target: float) -> float:
    """Epochs of the run, in proportion to work: 30 at a target of 0.9.

    Examples:
        >>> round(scaled_epochs(0.9), 1), round(scaled_epochs(0.5), 1), round(scaled_epochs(0.97), 1)
        (30.0, 9.0, 45.7)
    """
    return REFERENCE_EPOCHS * work(target) / work(REFERENCE_SPARSITY)


def sound_target(epochs: float) -> float:
    """The highest target that so many epochs are long enough for: the inverse of `scaled_epochs`.

    Examples:
        >>> round(sound_target(30), 3), round(sound_target(9), 3)
        (0.9, 0.499)
    """
    return -expm1(-work(REFERENCE_SPARSITY) * epochs / REFERENCE_EPOCHS)


def scaled_events(target: float) -> int:
    """Number of events, in proportion to work: 7 at a target of 0.9, at least the jump and the target.

    Examples:
        >>> scaled_events(0.9), scaled_events(0.5), scaled_events(0.97)
        (7, 2, 11)
    """
    return max(2, round(REFERENCE_EVENTS * work(target) / work(REFERENCE_SPARSITY)))
