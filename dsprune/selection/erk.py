"""The Erdos-Renyi-kernel distribution, which keeps a larger fraction of a smaller matrix.

A matrix of n rows and m columns keeps a fraction proportional to (n + m) / (n m), that is a number of weights
proportional to n + m, and at most all of them (Mocanu et al., 2018; Evci et al., 2020).
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod

__all__ = ["divide_kept"]

Shape = tuple[int, ...]

FINENESS = 1 << 64


def divide_kept(shapes: Sequence[Shape], num_kept: int) -> list[int]:
    """Divide a number of kept weights among tensors, proportionally to `shape_weight` and at most all of each.

    Fractions are rounded by the method of Sainte-Lague: a tensor's j-th weight is kept before another's k-th if
    (j - 1/2) / weight is lower than the other's (k - 1/2) / weight; the first tensor wins a tie. The sum is exact. A
    smaller `num_kept` never keeps more of any tensor, so the sparsity can rise without regrowth.

    Examples:
        >>> divide_kept([(10, 10), (10, 40), (2, 2)], 100)
        [27, 69, 4]
    """
    sizes, weights = [prod(shape) for shape in shapes], [shape_weight(shape) for shape in shapes]

    def kept_below(quotient: int) -> list[int]:
        """Count the weights of each tensor whose (j - 1/2) / weight is at most quotient / FINENESS."""
        halves = [(2 * quotient * weight + FINENESS) // (2 * FINENESS) for weight in weights]
        return [min(size, half) for size, half in zip(sizes, halves, strict=True)]

    low, high = 0, FINENESS * (max(sizes) + 1)  # nothing, and everything
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(kept_below(middle)) <= num_kept else (low, middle)
    kept = kept_below(low)
    for _ in range(num_kept - sum(kept)):
        waiting = [place for place, size in enumerate(sizes) if kept[place] < size]
        kept[min(waiting, key=lambda place: Fraction(2 * kept[place] + 1, 2 * weights[place]))] += 1
    return kept


def shape_weight(shape: Shape) -> int:
    """Return rows + columns, summed over the matrices of a stack (experts); 1 x 1 kernels are matrices.

    Examples:
        >>> shape_weight((10, 40)), shape_weight((10, 40, 1)), shape_weight((8, 10, 40)), shape_weight((7,))
        (50, 50, 400, 7)
    """
    *stack, rows, columns = (1, 1, *(size for size in shape if size > 1))
    return columns if rows == 1 else prod(stack) * (rows + columns)
