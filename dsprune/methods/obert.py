"""oBERT: the weights that matter least to second order are pruned, and the others of their block make up for them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsprune.kernels.block_products import in_blocks, matrices
from dsprune.methods.method import Accumulator, CompensatingMethod, ShardContext

__all__ = ["OBert"]

BLOCK = 50
SIDE = 52
"""Rows and columns of a matrix as libraries are given it: each matrix of a batch is then aligned to 64 bytes."""

BATCH = 8
"""Fewest matrices at a time, since libraries factor a single one by another algorithm."""

ROUNDING = 2.0**-20
"""Added to the diagonal, as a fraction of its largest entry: sums in float32 can miss being positive by as much."""


class OBert(CompensatingMethod):
    """Score a weight by what its removal costs to second order, and move the others of its block to make up for it.

    The Fisher matrix is the mean of g g^T over the last `pruning.window` steps, for each block of 50 weights, plus
    `pruning.damping` on its diagonal. It is inverted for the weights of the block that are kept, so that all that are
    pruned at a mask update are made up for together, where the source adds up the changes for one weight at a time.

    `pruning.recomputations` divides a mask update into parts, each of the same share of the weights that are left.
    After each, the scores are computed again, from the weights as they have moved, with the same gradients; the source
    takes new ones. In one part, weights that could each make up for the other may all go: large mask updates need
    several. Blocks are of consecutive weights in a flattened tensor.

    Formula: score = w^2 / (2 [F^-1]_ii); the kept weights K of a block move by F_KK^-1 F_KQ w_Q as Q is pruned.
    Source: Kurtic et al., The Optimal BERT Surgeon, 2022; Hassibi and Stork, Optimal Brain Surgeon, 1992.
    Cost: 104 bytes a prunable weight while gradients are summed, and one pass over them a step; at a mask update
    about 5 seconds a million weights on a CPU core, and 2 more for each part after the first; 11 for the default of 4.
    Use: few mask updates, and large ones; with a `pruning.window`, the memory is used in those steps only.
    """

    absolute = True
    block = BLOCK
    accumulators = (Accumulator("fisher", block=BLOCK),)

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return g, of whose products the Fisher matrix is the mean."""
        return {"fisher": context.unscaled_gradient()}

    def scores(self, context: ShardContext) -> Tensor:
        """Return `w / sqrt(2 [F^-1]_ii)`, whose absolute value has the order of the score and does not underflow."""
        weight, variance = _remove(context)
        return (weight / (2 * variance).sqrt()).float()

    def compensate(self, context: ShardContext) -> Tensor:
        """Return the weights after the move."""
        return _remove(context)[0].float()


def _remove(context: ShardContext) -> tuple[Tensor, Tensor]:
    """Return the weights after all that are not kept are removed, and the diagonal of the inverse Fisher matrix.

    All is in float64. Sums are taken one term after the other, so that a result does not depend on the rest of a
    batch. A removed weight is 0, and its entry of the diagonal is 1.
    """
    assert context.kept is not None
    kept, weight = in_blocks(context.kept.double(), BLOCK), in_blocks(context.weight.double(), BLOCK)
    fisher = _as_batch(matrices(context.accumulators["fisher"].float(), BLOCK).double() / context.num_steps)
    kept, weight = _as_batch(kept), _as_batch(weight)
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    diagonal += context.damping + ROUNDING * diagonal.amax(dim=1, keepdim=True)
    unit = torch.eye(SIDE, dtype=fisher.dtype, device=fisher.device)
    system = torch.where(kept.unsqueeze(1) * kept.unsqueeze(2) > 0, fisher, unit)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(system)[0])
    pull = _times(fisher, weight * (1 - kept)) * kept
    moved = (weight + _times(inverse, pull)) * kept
    variance = inverse.diagonal(dim1=1, dim2=2)
    return _flat(moved, context), _flat(variance, context)


def _as_batch(blocks: Tensor) -> Tensor:
    """Complete vectors or matrices to `SIDE`, and their number to `BATCH`, by zeros."""
    sides = (0, SIDE - BLOCK) * (blocks.dim() - 1)
    return pad(blocks, (*sides, 0, max(0, BATCH - len(blocks))))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply symmetric matrices by vectors."""
    total = torch.zeros_like(vector)
    for row in range(BLOCK):
        total += matrix[:, row] * vector[:, row : row + 1]
    return total


def _flat(blocks: Tensor, context: ShardContext) -> Tensor:
    return blocks[:, :BLOCK].reshape(-1)[: len(context.positions)]
