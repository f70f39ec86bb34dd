"""The protocol of pruning methods, and their view of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from dsprune.model.shard import PrunableTensor

__all__ = ["Method", "ShardContext"]


@dataclass(frozen=True)
class ShardContext:
    """A shard for a method to score; `context[part]` is a part of it.

    Attributes:
        tensor: the tensor of the shard.
        positions: flat index of each weight in the tensor.
        weight: the weights, float32 and 1-D.
        gradient: gradients of the weights, or None if there are none.
        state: views of the optimizer's state of the weights by name, such as "exp_avg_sq".
        seed: the run's seed.
        step: number of applied optimizer steps.
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
    """Determines which weights are pruned first.

    Attributes:
        absolute: whether weights are ordered by the absolute value of their score.

    A method that reads the optimizer's state names it in an attribute `needs`, such as `("exp_avg_sq",)`; a run
    whose optimizer does not keep that state is refused before it starts.
    """

    absolute: bool

    def scores(self, context: ShardContext) -> Tensor:
        """Return float32 scores, one per weight; the lowest are pruned first.

        The score of a weight must depend only on the context's entries for that weight, so that the mask does not
        depend on the sharding. Its arithmetic must not depend on the position in a vector either: functions such
        as `exp` may differ in the last bit between the vectorized body and the tail of a loop.
        """
        ...
