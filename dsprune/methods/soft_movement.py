"""Soft movement pruning: movement pruning with scores that Adam trains."""

from collections.abc import Mapping

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import Accumulator, Method, ShardContext

__all__ = ["SoftMovement"]

BETAS = 0.9, 0.999
EPS = 1e-8


class SoftMovement(Method):
    """Score a weight by a trained score: Adam trains it at a constant learning rate, with the gradient w g.

    The source and its successor nn_pruning train the scores of both variants in this way. `movement` adds up the
    products w g themselves. Adam divides them by their running root mean square, so a small product that keeps its sign
    counts as much as a large one.

    The soft variant of the source keeps the weights whose score is above a threshold, the same for all tensors. A
    penalty on the sigmoids of the scores determines how many weights that is, so the final sparsity is not known in
    advance. Here the recipe gives the target sparsity: in scope `global` it sets the common threshold exactly, so no
    threshold and no penalty must be chosen. The learning rate of the scores has no effect, since it scales all scores
    by the same factor. Unlike in the source, a pruned weight stays pruned.

    Formula: score = -sum of m / (sqrt(v) + 1e-8) over the steps since the start of the run, with m and v Adam's means
    of w g and of its square (0.9, 0.999).
    Source: Sanh et al., Movement Pruning, 2020; Lagunas et al., Block Pruning for Faster Transformers, 2021.
    Cost: 12 bytes per prunable weight up to the last mask update, and a pass over weights and gradients per step.
    Use: instead of `movement`, if the gradients of the layers differ much in size and the scope is `global`; it needs
    as many steps as `movement`.
    """

    accumulators = tuple(Accumulator(name, whole_run=True) for name in ("score", "mean", "square"))

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return the changes of the score and of its two means in a step of Adam."""
        kept, pull = context.accumulators, -(context.weight * context.unscaled_gradient())
        mean = (pull - kept["mean"]) * (1 - BETAS[0])
        square = (pull * pull - kept["square"]) * (1 - BETAS[1])
        first, second = (
            (kept[name] + added) / (1 - beta ** (context.step + 1))
            for name, added, beta in zip(("mean", "square"), (mean, square), BETAS, strict=True)
        )
        # The float32 roots of torch are not rounded exactly on every CPU.
        score = first / (second.double().sqrt().float() + EPS)
        return {"score": score, "mean": mean, "square": square}

    def product(self, context: ShardContext) -> Product:
        """Return the trained scores."""
        return Product(context.accumulators["score"])
