"""Curves of the sparsity from the first mask update to the last, as pure functions of the progress."""

from collections.abc import Callable

__all__ = ["Curve", "cubic", "exponential", "linear", "one_shot"]

Curve = Callable[[float, float, float], float]


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
    """Return a sparsity whose log compression grows linearly: each mask update prunes the same share of the rest.

    It is `1 - (1 - first) * ((1 - target) / (1 - first)) ** progress`; arguments as for `cubic`.

    Examples:
        >>> [round(exponential(i / 3, 0.5, 0.9375), 4) for i in range(4)]  # the rest is halved three times
        [0.5, 0.75, 0.875, 0.9375]
    """
    return float(1 - (1 - first) * ((1 - target) / (1 - first)) ** progress)


def one_shot(progress: float, first: float, target: float) -> float:
    """Return the target, which the single mask update reaches; arguments as for `cubic`."""
    del progress, first
    return target
