"""GTS: an encoder of any kind, a recurrent layer over it, and a decoder that grows the tree of an equation.

After Xie and Sun, A Goal-Driven Tree-Structured Neural Model for Math Word Problems (IJCAI 2019), as SMC-Bench uses it:
over a pretrained encoder.
"""

from dsprune.model.gts.solver import GtsConfig, GtsForEquations

__all__ = ["GtsConfig", "GtsForEquations"]
