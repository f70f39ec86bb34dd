"""Magnitude pruning: the smallest weights are pruned first."""

from torch import Tensor

from dsprune.methods.method import ShardContext

__all__ = ["Magnitude"]


class Magnitude:
    """Score a weight by its absolute value."""

    absolute = True

    def scores(self, context: ShardContext) -> Tensor:
        """Return the weights themselves; `absolute` orders them by absolute value without a copy."""
        return context.weight
