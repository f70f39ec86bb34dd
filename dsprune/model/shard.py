"""A prunable tensor, and the slice of it that one rank owns."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from dsprune.recipe.pattern import matrix_shape

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PrunableTensor", "Shard", "equal_part", "parts_of"]


@dataclass(frozen=True)
class PrunableTensor:
    """One weight tensor that the recipe prunes.

    Attributes:
        name: its name in the model's `named_parameters()` (tied weights have one name).
        shape: full shape.
        sparsity: target fraction of zeros, or None for the recipe's common target.
        inputs_first: whether its matrices are stored as `[inputs, outputs]`.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float | None = None
    inputs_first: bool = False

    @property
    def numel(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def num_inputs(self) -> int:
        """Number of inputs of each of its matrices."""
        return self.shape[-2] if self.inputs_first else matrix_shape(self.shape)[-1]

    def inputs_at(self, positions: "Tensor") -> "Tensor":
        """Return the index of the input that each weight multiplies, from the weights' flat indices."""
        return (positions // self.shape[-1] if self.inputs_first else positions) % self.num_inputs


@dataclass(frozen=True)
class Shard:
    """The contiguous slice `[start, start + numel)` of a flattened prunable tensor that this rank owns.

    A rank that owns no weight of a tensor has a shard with `numel == 0`. So every rank lists the same tensors in the
    same order: the global order, which breaks ties.

    Attributes:
        tensor: the tensor.
        start: flat index of the first weight.
        numel: number of weights.
    """

    tensor: PrunableTensor
    start: int
    numel: int

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.start + self.numel <= self.tensor.numel, self


def equal_part(numel: int, number: int, count: int) -> tuple[int, int]:
    """Return start and length of one of the equal parts into which ZeRO stage 3 cuts a flattened tensor.

    The last parts may be shorter, or empty.

    Examples:
        >>> [equal_part(5, number, 4) for number in range(4)]
        [(0, 2), (2, 2), (4, 1), (5, 0)]
    """
    size = -(-numel // count)
    start = min(number * size, numel)
    return start, min(size, numel - start)


def parts_of(shard: Shard, count: int) -> range:
    """Return the numbers of the equal parts of a tensor that overlap a shard.

    Examples:
        >>> parts_of(Shard(PrunableTensor("up", (5,)), 1, 3), 4)
        range(0, 2)
    """
    size = -(-shard.tensor.numel // count)
    return range(shard.start // size, -(-(shard.start + shard.numel) // size) if shard.numel else 0)
