"""Parameters under ZeRO stage 3, where each is partitioned over the ranks and an empty tensor stands in its place."""

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
    """Return whether the parameter is partitioned over the ranks, so that reading it is collective."""
    return hasattr(parameter, "ds_id")
