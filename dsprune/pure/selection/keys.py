"""Scores as integers whose order is the order in which weights are pruned.

The bits of a float, read as an integer, are monotone once negative numbers are reflected; so selection
counts and compares integers and is exact. Three kinds of weight have a key of their own:

    a weight that is pruned already   PRUNED_KEY   below all others: it stays pruned
    a score of -0.0                   0            the key of +0.0: equal scores have equal keys
    a score that is NaN               NAN_KEY      above all others: counted and refused
"""

import torch
from torch import Tensor

__all__ = ["HIGHEST_KEY", "LOWEST_KEY", "NAN_KEY", "PRUNED_KEY", "to_keys"]

PRUNED_KEY = -(2**31)
LOWEST_KEY = PRUNED_KEY + 1  # no score has a key below this
HIGHEST_KEY = 2**31 - 2  # nor above this
NAN_KEY = 2**31 - 1


def to_keys(scores: Tensor, absolute: bool, kept: Tensor) -> Tensor:
    """Returns the int32 keys of float32 scores, or of their absolute values; `kept` is their boolean mask."""
    scores = scores.abs() if absolute else scores + 0.0  # -0.0 + 0.0 is +0.0
    bits = scores.view(torch.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys.masked_fill_(scores.isnan(), NAN_KEY).masked_fill_(~kept, PRUNED_KEY)
