"""Fisher pruning: the weights whose removal raises the loss least are pruned first."""

from torch import Tensor

from dsprune.methods.method import ShardContext

__all__ = ["Fisher"]


class Fisher:
    """Score a weight w by w^2 v, where v is the optimizer's second moment: the diagonal of the empirical Fisher.

    To second order, pruning w raises the loss by w^2 F / 2, with F its entry of the Fisher's diagonal (LeCun et
    al., Optimal Brain Damage, 1989). Adam and its variants keep a running mean v of the squared gradients, which
    ZeRO shards beside the masks. So the score costs no memory, no message and no backward pass.

    The bias correction of v is one factor for all weights, which does not change their order. At the first step of
    a run there is no v yet; the squared gradient of that step, which is what v begins with, takes its place. Weights
    that never had a gradient have the score 0 and are pruned first.

    In fp16 the optimizer sees gradients without the loss scale, and keeps v in fp32, so the scale does not change v.
    A gradient that takes the place of v is scaled, which does not change the order. If it overflows, DeepSpeed skips
    the step, and the mask is dropped with it.
    """

    absolute = True
    needs = ("exp_avg_sq",)

    def scores(self, context: ShardContext) -> Tensor:
        """Return `w sqrt(v)`, whose absolute value has the order of `w^2 v` and does not underflow."""
        second_moment = context.state.get("exp_avg_sq")
        if second_moment is not None:
            return context.weight * second_moment.sqrt()
        if context.gradient is not None:
            return context.weight * context.gradient.float().nan_to_num()  # of an overflow
        return context.weight * 0.0
