"""Magnitude pruning: small weights go first."""

from torch import Tensor

from dsprune.methods.method import ShardContext

__all__ = ["Magnitude"]


class Magnitude:
    """Scores a weight by its absolute value."""

    absolute = True

    def scores(self, context: ShardContext) -> Tensor:
        """Returns the weights themselves: `absolute` does the rest, without a copy of them."""
        return context.weight
