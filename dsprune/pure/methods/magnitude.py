"""Magnitude pruning: small weights go first."""

from torch import Tensor

from dsprune.pure.methods.context import ShardContext

__all__ = ["Magnitude"]


class Magnitude:
    """Scores a weight by its absolute value."""

    def scores(self, context: ShardContext) -> Tensor:
        """Returns `|weight|`."""
        return context.weight.abs()
