"""Saliency pruning: weights whose removal raises the loss least go first (Optimal Brain Damage)."""

from torch import Tensor

from dsprune import UserError
from dsprune.methods.method import Method, ShardContext


class Saliency(Method):
    """Scores a weight by its square times Adam's running mean of its squared gradient.

    That mean approximates the diagonal of the Fisher matrix, so the score approximates the change of the loss.
    """

    def scores(self, context: ShardContext) -> Tensor:
        """Return float32 scores, one a weight; the lowest are pruned first."""
        mean_square = context.state.get("exp_avg_sq")
        if mean_square is None:
            raise UserError(
                "pruning.method: saliency reads Adam's moments: use AdamW, and pruning.start of 1 or more"
            )
        return context.weight.square() * mean_square
