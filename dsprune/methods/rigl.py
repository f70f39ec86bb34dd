"""RigL: the smallest weights are dropped, and those with the largest gradients grow back."""

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import RegrowingMethod, ShardContext

__all__ = ["RigL"]


class RigL(RegrowingMethod):
    """Score a weight by its absolute value, and let the weights with the largest gradients grow back.

    A mask update that must end with K kept weights drops d K weights more than needed, and then grows d K weights. The
    fraction d falls along a cosine from `pruning.drop` at the first mask update to 0 at the last. So the last mask
    update grows no weights, which would have no time left to train. With `curve: constant`, `scope: erk` and
    `first_method: random` this is RigL as published. With a rising curve the masks also become sparser from update to
    update.

    Formula: drop the lowest |w|; grow the highest |g|; d = pruning.drop / 2 (1 + cos(pi t)), t = 0 to 1.
    Source: Evci et al., Rigging the Lottery, 2020.
    Cost: no memory, and two selections per mask update. The gradients are those of the training step, which are dense.
    Use: training at a constant sparsity, from an already sparse model or from scratch, with many mask updates.
    """

    absolute = True

    def product(self, context: ShardContext) -> Product:
        """Return the weights, which `absolute` orders by absolute value."""
        return Product(context.weight)

    def growth_scores(self, context: ShardContext) -> Tensor:
        """Return the gradients, also ordered by absolute value."""
        return context.unscaled_gradient()
