"""The same zeros, counted over different sets of weights."""

__all__ = ["GRID", "converted"]

GRID = tuple(round(1 - 0.8**n, 4) for n in range(1, 11))
"""SMC-Bench's sparsities, of all matrices with embeddings and classifier: each round prunes a fifth of the rest."""


def converted(sparsity: float, counted: int, pruned: int) -> float:
    """The sparsity of the weights that are pruned, from that of a larger set in which the others stay dense.

    Above 1 where the others alone are more than may be left.

    Args:
        sparsity: fraction of zeros in the larger set.
        counted: size of the larger set.
        pruned: size of the set in which the zeros are.

    Examples:
        >>> round(converted(0.59, counted=355_360_000, pruned=301_990_000), 3)  # RoBERTa-large
        0.694
    """
    return sparsity * counted / pruned
