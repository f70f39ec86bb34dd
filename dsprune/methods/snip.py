"""SNIP: weights whose removal changes the loss least, to first order, are pruned first."""

from collections.abc import Mapping

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Accumulator, Method, ShardContext

__all__ = ["Snip"]


class Snip(Method):
    """Score a weight by |w g|, its connection sensitivity, summed over the steps before the mask update.

    To first order, removing w changes the loss by w g. With `curve: one-shot` and an early `start` this is SNIP as
    published, which prunes before training. With other curves it is iterative, and the sums begin at zero after each
    mask update. `pruning.window` sets the number of steps that are summed.

    Formula: score = sum of |w g|, over the steps since the previous mask update, or the last `pruning.window` of them.
    Source: Lee et al., SNIP: Single-shot Network Pruning, 2019.
    Cost: 4 bytes per prunable weight up to the last mask update, and one pass over weights and gradients per step.
    Use: a baseline for pruning before training.
    """

    accumulators = (Accumulator("sensitivity"),)

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return |w g|."""
        return {"sensitivity": (context.weight * context.unscaled_gradient()).abs()}

    def product(self, context: ShardContext) -> Product:
        """Return the sums."""
        return Product(context.accumulators["sensitivity"])
