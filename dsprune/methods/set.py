"""SET: the smallest weights are dropped, and random ones grow back."""

from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.methods.method import RegrowingMethod, ShardContext
from dsprune.methods.random import hash_scores

__all__ = ["Set"]


class Set(RegrowingMethod):
    """Score a weight by its absolute value, and let random weights grow back.

    It drops and grows as many weights as `rigl`. A hash of the seed, the step, the tensor's name and the weight's flat
    index chooses the weights that grow, so they are the same on any number of ranks and in a resumed run.

    Formula: drop the lowest |w|; grow at random.
    Source: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity, 2018.
    Cost: no memory, and two selections per mask update.
    Use: the baseline for `rigl`.
    """

    absolute = True

    def product(self, context: ShardContext) -> Product:
        """Return the weights, which `absolute` orders by absolute value."""
        return Product(context.weight)

    def growth_scores(self, context: ShardContext) -> Tensor:
        """Return scores in [0, 1) that differ at each step."""
        return hash_scores(context, f"{context.seed} {context.step} {context.tensor.name}")
