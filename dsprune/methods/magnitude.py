"""Magnitude pruning: the smallest weights are pruned first."""

from dsprune.kernels.product import Product
from dsprune.methods.method import Method, ShardContext

__all__ = ["Magnitude"]


class Magnitude(Method):
    """Score a weight by its absolute value.

    Formula: score = |w|.
    Source: Zhu and Gupta, To prune, or not to prune, 2017, for the gradual schedule.
    Cost: nothing.
    Use: the classic, and the method of the guidelines that dsprune follows; works with any optimizer.
    """

    absolute = True

    def product(self, context: ShardContext) -> Product:
        """Return the weights themselves; `absolute` orders them by absolute value without a copy."""
        return Product(context.weight)
