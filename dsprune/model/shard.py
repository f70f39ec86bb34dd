"""The words that the layers share: a prunable tensor, and the slice of it that one rank owns."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import Tensor

__all__ = ["PrunableTensor", "ShapeOf", "Shard", "plain_shape"]

ShapeOf = Callable[[Tensor], tuple[int, ...]]
"""The full shape of a parameter, which may be partitioned."""


def plain_shape(parameter: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter that is not partitioned."""
    return tuple(parameter.shape)


@dataclass(frozen=True)
class PrunableTensor:
    """One weight that the recipe prunes.

    Attributes:
        name: its name in the model, as `named_parameters` gives it (tied weights have one name).
        shape: full shape.
        sparsity: fraction of its weights to be zero at the end, or None for the recipe's common target.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float | None = None

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """The contiguous slice `[start, start + numel)` of a flattened prunable tensor that this rank owns.

    A rank that owns nothing of a tensor holds a shard with `numel == 0`, so that every rank lists the same
    tensors in the same order (the global order, by which ties are broken).
    """

    tensor: PrunableTensor
    start: int
    numel: int

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.start + self.numel <= self.tensor.numel, self
