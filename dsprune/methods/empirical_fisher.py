"""Fisher pruning from squared gradients that the method sums itself, for any optimizer."""

from collections.abc import Mapping

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Accumulator, Method, ShardContext

__all__ = ["EmpiricalFisher"]


class EmpiricalFisher(Method):
    """Score a weight as `fisher` does, with squared gradients that the method sums itself.

    It needs no second moment of the optimizer, so it works with SGD too. All steps have the same weight,
    whereas Adam's second moment forgets old steps. `pruning.window` sets the number of steps that are summed.

    Formula: score = w^2 F, with F the sum of g^2 over the steps since the previous mask update, or the last
    `pruning.window` of them.
    Source: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018; here F is computed from
    the gradients of whole batches.
    Cost: 4 bytes per prunable weight up to the last mask update, and one pass over the gradients per step.
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
