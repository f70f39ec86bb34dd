"""GTS and Graph2Tree: any encoder, layers on top of it, and a decoder that generates the tree of an equation.

After Xie and Sun, A Goal-Driven Tree-Structured Neural Model for Math Word Problems (IJCAI 2019), and Zhang et al.,
Graph-to-Tree Learning for Solving Math Word Problems (ACL 2020), on a pretrained encoder as in SMC-Bench.
"""

from dsprune.model.gts.graph2tree import Graph2TreeConfig, Graph2TreeForEquations
from dsprune.model.gts.solver import EquationSolver, GtsConfig, GtsForEquations

__all__ = ["EquationSolver", "Graph2TreeConfig", "Graph2TreeForEquations", "GtsConfig", "GtsForEquations"]
