"""Fisher pruning: the weights whose removal raises the loss least are pruned first."""

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Method, ShardContext

__all__ = ["Fisher"]


class Fisher(Method):
    """Score a weight w by w^2 v, where v is the optimizer's second moment: the diagonal of the empirical Fisher.

    To second order, pruning w raises the loss by w^2 F / 2, with F its entry of the Fisher's diagonal. Adam and its
    variants keep a running mean v of the squared gradients, which ZeRO shards beside the masks.

    The bias correction of v is one factor for all weights, which does not change their order. At the first step of
    a run there is no v yet; the squared gradient of that step, which is what v begins with, takes its place. Weights
    that never had a gradient have the score 0 and are pruned first.

    In fp16 the optimizer sees gradients without the loss scale, and keeps v in fp32, so the scale does not change v.
    If the gradient that takes the place of v overflows, DeepSpeed skips the step, and the mask is dropped with it.

    Formula: score = w^2 v.
    Source: LeCun et al., Optimal Brain Damage, 1989, with the empirical Fisher for the Hessian.
    Cost: no memory, no message and no backward pass. Needs Adam or a variant of it.
    Use: the default; keeps more accuracy than magnitude where the budget is short.
    """

    absolute = True
    squared = True
    needs = ("exp_avg_sq",)

    def scores(self, context: ShardContext) -> Tensor:
        """Return `w sqrt(v)`, whose absolute value has the order of `w^2 v` and does not underflow."""
        product = self.product(context)
        return context.weight * context.unscaled_gradient() if product is None else product.values()

    def product(self, context: ShardContext) -> Product | None:
        """Return the same, unless the squared gradient takes the place of the second moment."""
        second_moment = context.state.get("exp_avg_sq")
        return None if second_moment is None else Product(context.weight, root=second_moment)
