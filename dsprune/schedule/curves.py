"""Curves of the sparsity over the mask updates, and of the fraction that grows back."""

from math import cos, pi

__all__ = ["at_target", "cubic", "drop_fraction", "exponential", "linear"]


def cubic(progress: float, first: float, target: float) -> float:
    """Return a sparsity that grows fast at first, when most weights are redundant, and slowly near the target.

    It is `first + (target - first) * (1 - (1 - progress) ** 3)`.

    Args:
        progress: fraction of the steps from the start of the curve to its end, 0 to 1.
        first: sparsity at progress 0.
        target: sparsity at progress 1.

    Examples:
        >>> [round(cubic(i / 6, 0.7, 0.9), 3) for i in range(7)]
        [0.7, 0.784, 0.841, 0.875, 0.893, 0.899, 0.9]
    """
    return first + (target - first) * (1 - (1 - progress) ** 3)


def linear(progress: float, first: float, target: float) -> float:
    """Return a sparsity that grows by the same number of weights at every mask update; arguments as for `cubic`.

    Examples:
        >>> linear(0.5, 0.5, 0.75)
        0.625
    """
    return first + (target - first) * progress


def exponential(progress: float, first: float, target: float) -> float:
    """Return a sparsity with linear log compression: each mask update prunes the same fraction of the kept weights.

    It is `1 - (1 - first) * ((1 - target) / (1 - first)) ** progress`; arguments as for `cubic`.

    Examples:
        >>> [round(exponential(i / 3, 0.5, 0.9375), 4) for i in range(4)]  # halved three times
        [0.5, 0.75, 0.875, 0.9375]
    """
    return float(1 - (1 - first) * ((1 - target) / (1 - first)) ** progress)


def at_target(progress: float, first: float, target: float) -> float:
    """Return the target at every mask update; arguments as for `cubic`.

    `one-shot` has a single mask update. With `constant`, weights grow back in place of others at each. With
    `alternating`, every second one lets all weights grow back, see `dsprune.schedule.build` (Peste et al., AC/DC:
    Alternating Compressed/DeCompressed Training of Deep Neural Networks, 2021).
    """
    return target


def drop_fraction(progress: float, first: float) -> float:
    """Return the fraction of the kept weights that a mask update drops and lets grow back.

    It falls along half a cosine from `first` at progress 0 to exactly 0 at progress 1.

    Examples:
        >>> [round(drop_fraction(i / 4, 0.4), 3) for i in range(5)]
        [0.4, 0.341, 0.2, 0.059, 0.0]
    """
    return first / 2 * (1 + cos(pi * progress))
