"""How sparsity grows from the first event to the last, as pure functions of the progress between them."""

from collections.abc import Callable

__all__ = ["CURVES", "cubic", "equal_work", "linear"]

Curve = Callable[[float, float, float], float]


def cubic(progress: float, first: float, target: float) -> float:
    """Sparsity that grows fast at first, when most weights are redundant, and slowly near the target.

    More precisely: `first + (target - first) * (1 - (1 - progress) ** 3)` for a progress from 0 to 1.

    Args:
        progress: how far the clock is from the start of the curve to its end, 0 to 1.
        first: sparsity at progress 0.
        target: sparsity at progress 1.

    Examples:
        >>> [round(cubic(i / 6, 0.7, 0.9), 3) for i in range(7)]
        [0.7, 0.784, 0.841, 0.875, 0.893, 0.899, 0.9]
    """
    return first + (target - first) * (1 - (1 - progress) ** 3)


def linear(progress: float, first: float, target: float) -> float:
    """Sparsity that grows by the same number of weights at every event; arguments as `cubic`.

    Examples:
        >>> linear(0.5, 0.5, 0.75)
        0.625
    """
    return first + (target - first) * progress


def equal_work(progress: float, first: float, target: float) -> float:
    """Sparsity that grows by the same work at every event: the same share of the weights that are left.

    More precisely: `1 - (1 - first) * ((1 - target) / (1 - first)) ** progress`; arguments as `cubic`.

    Examples:
        >>> [round(equal_work(i / 3, 0.5, 0.9375), 4) for i in range(4)]  # halved three times
        [0.5, 0.75, 0.875, 0.9375]
    """
    return 1 - (1 - first) * ((1 - target) / (1 - first)) ** progress


CURVES: dict[str, Curve] = {"cubic": cubic, "linear": linear, "equal-work": equal_work}
"""The curves between the first event and the last; `one-shot` needs none."""
