"""Fisher pruning: the weights whose removal raises the loss least are pruned first."""

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Method, ShardContext

__all__ = ["Fisher"]


class Fisher(Method):
    """Score a weight w by w^2 v, where v is the optimizer's second moment: the diagonal of the empirical Fisher.

    To second order, pruning w raises the loss by w^2 F / 2, where F is its entry of the diagonal of the Fisher matrix.
    Adam and its variants keep a running mean v of the squared gradients, which ZeRO shards like the masks.

    The bias correction of v is one factor for all weights, which does not change their order. At the first step of a
    run v does not exist yet; the squared gradient of that step is used, which is the first value of v. Weights that
    never had a gradient have the score 0 and are pruned first, for example all weights of a layer that a script trains
    only later. With every method, the first and the last mask update name the matrices of which all weights are pruned.

    In fp16 the optimizer sees gradients without the loss scale, and keeps v in fp32, so the scale does not change v. If
    that first gradient overflows, DeepSpeed skips the step, and dsprune discards the mask.

    Formula: score = w^2 v.
    Source: LeCun et al., Optimal Brain Damage, 1989, with the empirical Fisher for the Hessian.
    Cost: no memory, no message and no backward pass. Needs Adam or a variant of it.
    Use: the default; keeps more accuracy than magnitude in short runs.
    """

    absolute = True
    squared = True
    needs = ("exp_avg_sq",)

    def scores(self, context: ShardContext) -> Tensor:
        """Return `w sqrt(v)`, whose absolute value has the order of `w^2 v` and does not underflow."""
        product = self.product(context)
        return context.weight * context.unscaled_gradient() if product is None else product.values()

    def product(self, context: ShardContext) -> Product | None:
        """Return the same, unless the second moment does not exist yet and the squared gradient is used."""
        second_moment = context.state.get("exp_avg_sq")
        return None if second_moment is None else Product(context.weight, root=second_moment)
