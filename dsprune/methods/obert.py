"""oBERT: prune the weights with the least second-order loss, and adjust the other weights of their block."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsprune.kernels.block_products import in_blocks, matrices
from dsprune.methods.method import Accumulator, CompensatingMethod, ShardContext

__all__ = ["OBert"]

BLOCK = 50
SIDE = 52
"""Rows and columns of a matrix after padding, which aligns each matrix of a batch to 64 bytes."""

BATCH = 8
"""Smallest number of matrices at a time: libraries factor a single one by another algorithm."""

ROUNDING = 2.0**-20
"""Added to the diagonal, as a fraction of its largest entry: rounding in float32 sums can make a matrix indefinite."""

GROWTH, ATTEMPTS = 4, 12
"""Factor on `ROUNDING` for each further attempt to factor an indefinite matrix, and the most attempts. Rounding errors
add up to more than `ROUNDING` in thousands of steps whose gradients have nearly one direction."""


class OBert(CompensatingMethod):
    """Score a weight by the second-order loss of its removal, and adjust the other weights of its block to compensate.

    The Fisher matrix is the mean of g g^T over the last `pruning.window` steps, for each block of 50 weights, plus
    `pruning.damping` on its diagonal. It is inverted for the kept weights of the block, so the kept weights compensate
    for all weights that a mask update prunes together. The source adds up the changes for one weight at a time.

    `pruning.recomputations` divides a mask update into parts, each of which prunes the same fraction of the remaining
    weights. After each part the scores are computed again from the changed weights and the same gradients; the source
    takes new gradients. A single part may prune several weights that could have compensated for each other, so a large
    mask update needs several parts. A block is a run of consecutive weights in a flattened tensor.

    Formula: score = w^2 / (2 [F^-1]_ii); when Q is pruned, F_KK^-1 F_KQ w_Q is added to the kept weights K of the
    block.
    Source: Kurtic et al., The Optimal BERT Surgeon, 2022; Hassibi and Stork, Optimal Brain Surgeon, 1992.
    Cost: 104 bytes per prunable weight while gradients are summed, and one pass over them per step. A mask update takes
    about 5 seconds per million weights on a CPU core, and 2 more for each part after the first: 11 seconds for the
    default of 4 parts.
    Use: few and large mask updates; with a `pruning.window`, the memory is used in those steps only.
    """

    absolute = True
    block = BLOCK
    accumulators = (Accumulator("fisher", block=BLOCK),)

    def increments(self, context: ShardContext) -> Mapping[str, Tensor]:
        """Return g; the Fisher matrix is the mean of its products."""
        return {"fisher": context.unscaled_gradient()}

    def scores(self, context: ShardContext) -> Tensor:
        """Return `w / sqrt(2 [F^-1]_ii)`, whose absolute value has the order of the score and does not underflow."""
        weight, variance = _remove(context)
        return (weight / (2 * variance).sqrt()).float()

    def compensate(self, context: ShardContext) -> Tensor:
        """Return the weights after the compensation."""
        return _remove(context)[0].float()


def _remove(context: ShardContext) -> tuple[Tensor, Tensor]:
    """Return the weights after removing all that are not kept, and the diagonal of the inverse Fisher matrix.

    The computation is in float64. Sums add one term at a time, so that a result does not depend on the rest of a batch.
    A removed weight is 0, and its entry of the diagonal is 1.
    """
    assert context.kept is not None
    kept, weight = in_blocks(context.kept.double(), BLOCK), in_blocks(context.weight.double(), BLOCK)
    fisher = _as_batch(matrices(context.accumulators["fisher"].float(), BLOCK).double() / context.num_steps)
    kept, weight = _as_batch(kept), _as_batch(weight)
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    rounding = ROUNDING * diagonal.amax(dim=1, keepdim=True)
    diagonal += context.damping + rounding
    unit = torch.eye(SIDE, dtype=fisher.dtype, device=fisher.device)
    system = torch.where(kept.unsqueeze(1) * kept.unsqueeze(2) > 0, fisher, unit)
    inverse = torch.cholesky_inverse(_factor(system, rounding))
    pull = _times(fisher, weight * (1 - kept)) * kept
    moved = (weight + _times(inverse, pull)) * kept
    variance = inverse.diagonal(dim1=1, dim2=2)
    return _flat(moved, context), _flat(variance, context)


def _factor(system: Tensor, rounding: Tensor) -> Tensor:
    """Return the Cholesky factors; to the diagonal of an indefinite matrix more than `rounding` is added first."""
    factors: Tensor
    for _ in range(ATTEMPTS):
        factors, failed = torch.linalg.cholesky_ex(system)
        if not failed.any():
            break
        rounding = GROWTH * rounding
        system.diagonal(dim1=1, dim2=2).add_(rounding * (failed != 0).unsqueeze(1))
    return factors


def _as_batch(blocks: Tensor) -> Tensor:
    """Pad vectors or matrices with zeros to `SIDE`, and their number to `BATCH`."""
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
