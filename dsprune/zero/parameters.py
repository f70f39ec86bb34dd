"""A parameter under ZeRO-3: partitioned over the ranks, an empty tensor in its place."""

from typing import Any

from torch import Tensor

__all__ = ["full_numel", "full_shape", "is_partitioned"]


def full_shape(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of the complete parameter."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def full_numel(parameter: Tensor) -> int:
    """Return the number of weights of the complete parameter."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def is_partitioned(parameter: Any) -> bool:
    """Return whether the ranks share the parameter, so that using it is collective."""
    return hasattr(parameter, "ds_id")
