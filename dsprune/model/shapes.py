"""The full shape of a parameter, which may be partitioned."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["ShapeOf", "plain_shape"]

ShapeOf = Callable[[Tensor], tuple[int, ...]]
"""Returns the full shape of a parameter, which may be partitioned."""


def plain_shape(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter that is not partitioned."""
    return tuple(parameter.shape)
