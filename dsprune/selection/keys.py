"""Scores as integer keys, whose order is the order in which weights are pruned.

The bits of a float, read as an integer, are monotone once negative numbers are reflected. Selection therefore
counts and compares integers, and is exact. Three kinds of weight have special keys:

    a pruned weight    PRUNED_KEY   below all other keys, so it stays pruned
    a score of -0.0    0            the key of +0.0, so equal scores have equal keys
    a score of NaN     NAN_KEY      above all other keys; counted, and an error
"""

import torch
from torch import Tensor

__all__ = ["HIGHEST_KEY", "LOWEST_KEY", "NAN_KEY", "PRUNED_KEY", "to_keys"]

PRUNED_KEY = -(2**31)
LOWEST_KEY = PRUNED_KEY + 1  # no score has a lower key
HIGHEST_KEY = 2**31 - 2  # no score has a higher key
NAN_KEY = 2**31 - 1


def to_keys(scores: Tensor, absolute: bool, kept: Tensor) -> Tensor:
    """Return the int32 keys of float32 scores, or of their absolute values.

    Args:
        scores: the scores.
        absolute: whether to take the absolute values of the scores.
        kept: boolean mask of the weights, True = kept.
    """
    scores = scores.abs() if absolute else scores + 0.0  # -0.0 + 0.0 is +0.0
    bits = scores.view(torch.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys.masked_fill_(scores.isnan(), NAN_KEY).masked_fill_(~kept, PRUNED_KEY)
