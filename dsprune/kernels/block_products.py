"""Products of pairs of values in a block, one row per weight, so that ranks can share a block.

Row i of a block of B weights holds the B // 2 + 1 products v[i] v[(i + k) % B], k = 0, 1, ... Every pair is in a row,
and the rows have half the numbers of a complete matrix. A shorter block at the end of a tensor is filled with zeros.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["in_blocks", "matrices", "products"]


def in_blocks(values: Tensor, block: int) -> Tensor:
    """Return the values of some weights, `[n, ...]`, by block, `[blocks, block, ...]`; zeros fill the last block."""
    missing = -len(values) % block
    return pad(values, (0, 0) * (values.dim() - 1) + (0, missing)).view(-1, block, *values.shape[1:])


def products(values: Tensor, block: int) -> Tensor:
    """Return the rows of some weights that start at a block: `[n]` to `[n, block // 2 + 1]`.

    Examples:
        >>> products(torch.tensor([1.0, 2.0, 3.0]), 4)
        tensor([[1., 2., 3.],
                [4., 6., 0.],
                [9., 0., 3.]])
    """
    whole = in_blocks(values, block)
    following = torch.cat([whole, whole[:, : block // 2]], dim=1).unfold(1, block // 2 + 1, 1)
    return (whole.unsqueeze(2) * following).flatten(end_dim=1)[: len(values)]


def matrices(rows: Tensor, block: int) -> Tensor:
    """Return the symmetric matrix of each block from the rows of its weights: `[n, width]` to `[blocks, block, block]`.

    Examples:
        >>> matrices(products(torch.tensor([1.0, 2.0, 3.0]), 3), 3)
        tensor([[[1., 2., 3.],
                 [2., 4., 6.],
                 [3., 6., 9.]]])
    """
    width = block // 2 + 1
    first = torch.arange(block, device=rows.device)
    ahead = (first - first.unsqueeze(1)) % block  # from the row's weight to the column's
    place = torch.where(ahead < width, first.unsqueeze(1) * width + ahead, first * width + (block - ahead))
    flat = in_blocks(rows, block).flatten(start_dim=1)
    return flat[:, place.view(-1)].view(-1, block, block)
