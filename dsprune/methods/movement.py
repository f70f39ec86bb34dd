"""Movement pruning: weights that move towards zero are pruned first."""

from collections.abc import Mapping

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Accumulator, Method, ShardContext

__all__ = ["Movement"]


class Movement(Method):
    """Score a weight by how far training moves it away from zero: by the sum of -w g over all steps so far.

    A weight w with the gradient g moves away from zero where w g is negative. So the sum is high where training needs a
    weight, whatever its size. Scope `uniform` prunes all tensors to the same sparsity, as the hard variant of the
    source does; `soft-movement` is the soft variant. Unlike in the source, a pruned weight has no gradient through its
    mask, and stays pruned. The source trains its scores at a learning rate of their own. It is not needed here: the
    scores begin at 0, so it would scale all of them by the same factor.

    The sum needs many steps to be more than noise. In 60 steps of a model of 22 million weights, the sums over the
    first and the second half of the steps do not rank the weights alike (rank correlation -0.12 for a fine-tuned and
    0.03 for a pretrained model), and half of the weights with the largest |w g| have a sum below zero. The source takes
    10 epochs, and prunes a few more weights at every step (`pruning.every: 1 steps`, `first: 0`).

    Formula: score = -sum of w g, over every step since the start of the run.
    Source: Sanh et al., Movement Pruning, 2020.
    Cost: 4 bytes per prunable weight up to the last mask update, and one pass over weights and gradients per step.
    Use: high sparsities of a pretrained model, with thousands of steps. Short runs ended at chance
    (docs/methods-compared.md); use `snip` there.
    """

    accumulators = (Accumulator("movement", whole_run=True),)

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return -w g."""
        return {"movement": -(context.weight * context.unscaled_gradient())}

    def product(self, context: ShardContext) -> Product:
        """Return the sums."""
        return Product(context.accumulators["movement"])
