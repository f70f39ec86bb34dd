"""Random pruning, the baseline for other methods."""

import torch
from torch import Tensor

from dsprune.methods.method import ShardContext
from dsprune.utils.randomness import hash_text, mix64

__all__ = ["Random"]


class Random:
    """Score a weight by a hash of the seed, the tensor's name and the weight's flat index.

    There is no generator state, so the order is the same on any number of ranks and at every mask update.
    """

    absolute = False

    def scores(self, context: ShardContext) -> Tensor:
        """Return scores in [0, 1), which are multiples of 2**-24."""
        positions = context.positions
        indices = torch.arange(positions.start, positions.stop, positions.step, device=context.weight.device)
        words = mix64(indices + hash_text(f"{context.seed} {context.tensor.name}"))
        return (words & 0xFFFFFF).float() * 2.0**-24
