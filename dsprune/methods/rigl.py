"""RigL: the smallest weights are dropped, and those with the largest gradients grow back."""

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import RegrowingMethod, ShardContext

__all__ = ["RigL"]


class RigL(RegrowingMethod):
    """Score a weight by its absolute value, and let those grow back whose gradients are the largest.

    At a mask update to K kept weights, d K more than needed are dropped, and as many grow. The fraction d falls from
    `pruning.drop` at the first mask update to 0 at the last, along a cosine; so the last one does not let weights grow
    that have no time left to train. With `curve: constant`, `scope: erk` and `first_method: random` this is RigL as
    published. With a curve that rises, the masks become sparser on the way as well.

    Formula: drop the lowest |w|; grow the highest |g|; d = pruning.drop / 2 (1 + cos(pi t)), t = 0 to 1.
    Source: Evci et al., Rigging the Lottery, 2020.
    Cost: no memory, and two selections a mask update. The gradients are those of the training step, which are dense.
    Use: training at a constant sparsity, from a model that is sparse already or from scratch, with many mask updates.
    """

    absolute = True

    def product(self, context: ShardContext) -> Product:
        """Return the weights, which `absolute` orders by absolute value."""
        return Product(context.weight)

    def growth_scores(self, context: ShardContext) -> Tensor:
        """Return the gradients, also ordered by absolute value."""
        return context.unscaled_gradient()
