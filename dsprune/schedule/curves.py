"""How sparsity grows from the first mask update to the last, as pure functions of the progress between them."""

from collections.abc import Callable

__all__ = ["Curve", "cubic", "exponential", "linear", "one_shot"]

Curve = Callable[[float, float, float], float]


def cubic(progress: float, first: float, target: float) -> float:
    """Sparsity that grows fast at first, when most weights are redundant, and slowly near the target.

    More precisely: `first + (target - first) * (1 - (1 - progress) ** 3)` for a progress from 0 to 1.

    Args:
        progress: how far the step is from the start of the curve to its end, 0 to 1.
        first: sparsity at progress 0.
        target: sparsity at progress 1.

    Examples:
        >>> [round(cubic(i / 6, 0.7, 0.9), 3) for i in range(7)]
        [0.7, 0.784, 0.841, 0.875, 0.893, 0.899, 0.9]
    """
    return first + (target - first) * (1 - (1 - progress) ** 3)


def linear(progress: float, first: float, target: float) -> float:
    """Sparsity that grows by the same number of weights at every mask update; arguments as `cubic`.

    Examples:
        >>> linear(0.5, 0.5, 0.75)
        0.625
    """
    return first + (target - first) * progress


def exponential(progress: float, first: float, target: float) -> float:
    """Sparsity that grows by the same work at every mask update: the same share of the weights that are left.

    More precisely: `1 - (1 - first) * ((1 - target) / (1 - first)) ** progress`; arguments as `cubic`.

    Examples:
        >>> [round(exponential(i / 3, 0.5, 0.9375), 4) for i in range(4)]  # halved three times
        [0.5, 0.75, 0.875, 0.9375]
    """
    return 1 - (1 - first) * ((1 - target) / (1 - first)) ** progress


def one_shot(progress: float, first: float, target: float) -> float:
    """Return the target: there is a single mask update; arguments as `cubic`."""
    del progress, first
    return target
