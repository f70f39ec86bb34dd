"""Fisher pruning from gradients of its own, for any optimizer."""

from collections.abc import Mapping

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Accumulator, Method, ShardContext

__all__ = ["EmpiricalFisher"]


class EmpiricalFisher(Method):
    """Score a weight as `fisher` does, with squared gradients that the method sums itself.

    It needs no second moment of the optimizer, so it works with SGD and Lion too, and all steps weigh the same,
    whereas Adam's second moment forgets. `pruning.window` sets the number of steps that are summed.

    Formula: score = w^2 F, with F the sum of g^2 over the steps since the mask update before, or the last
    `pruning.window` of them.
    Source: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018; here F is of the
    gradients of whole batches.
    Cost: 4 bytes a prunable weight up to the last mask update, and one pass over the gradients a step.
    Use: an optimizer without a second moment, or few steps between two mask updates.
    """

    absolute = True
    squared = True
    accumulators = (Accumulator("squares"),)

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return g^2."""
        return {"squares": context.unscaled_gradient().square()}

    def product(self, context: ShardContext) -> Product:
        """Return `w sqrt(F)`, whose absolute value has the order of `w^2 F` and does not underflow."""
        return Product(context.weight, root=context.accumulators["squares"])
