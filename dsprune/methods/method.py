"""What a pruning method sees of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from dsprune.model.shard import PrunableTensor

__all__ = ["Method", "ShardContext"]


@dataclass(frozen=True)
class ShardContext:
    """A shard, or with `context[part]` a part of one, for a method to score.

    Attributes:
        tensor: the tensor it belongs to.
        positions: flat index in the tensor of each weight.
        weight: the weights, float32 and 1-D.
        gradient: their gradients, or None where there are none.
        state: views on their optimizer state, such as "exp_avg_sq".
        seed: the run's seed.
        step: number of optimizer steps so far.
    """

    tensor: PrunableTensor
    positions: range
    weight: Tensor
    gradient: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        assert len(self.positions) == self.weight.numel(), self.tensor

    def __getitem__(self, part: slice) -> ShardContext:
        return replace(
            self,
            positions=self.positions[part],
            weight=self.weight[part],
            gradient=None if self.gradient is None else self.gradient[part],
            state={name: value[part] for name, value in self.state.items()},
        )


class Method(Protocol):
    """Decides which weights go first.

    Attributes:
        absolute: weights are ordered by the absolute value of their score.
    """

    absolute: bool

    def scores(self, context: ShardContext) -> Tensor:
        """Returns float32 scores, one a weight, lowest pruned first.

        The score of a weight depends on that weight's entries of the context alone, so that the mask does not
        depend on how tensors are sharded; and arithmetic must not depend on its place in a vector (`exp` and
        its like may differ in the last bit between the body and the tail of a loop).
        """
        ...
