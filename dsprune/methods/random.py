"""Random pruning, the baseline for other methods."""

import torch
from torch import Tensor

from dsprune.methods.method import Method, ShardContext
from dsprune.utils.randomness import hash_text, mix64

__all__ = ["Random", "hash_scores"]


class Random(Method):
    """Score a weight by a hash of the seed, the tensor's name and the weight's flat index.

    There is no generator state, so the order is the same on any number of ranks and at every mask update.

    Formula: score = a hash in [0, 1).
    Cost: nothing.
    Use: the baseline that every other method must beat.
    """

    def scores(self, context: ShardContext) -> Tensor:
        """Return scores in [0, 1), which are multiples of 2**-24."""
        return hash_scores(context, f"{context.seed} {context.tensor.name}")


def hash_scores(context: ShardContext, salt: str) -> Tensor:
    """Return a hash of the salt and each weight's flat index, in [0, 1)."""
    positions = context.positions
    indices = torch.arange(positions.start, positions.stop, positions.step, device=context.weight.device)
    words = mix64(indices + hash_text(salt))
    return (words & 0xFFFFFF).float() * 2.0**-24
