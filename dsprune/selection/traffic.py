"""What a mask update communicates."""

from dsprune.selection.search import BINS, ROUNDS

__all__ = ["update_bytes"]


def update_bytes(num_groups: int, num_tensors: int, world_size: int, normalized: bool = False) -> int:
    """Return the bytes that one rank passes to collectives in one mask update; every number takes eight bytes.

    Guessing the brackets takes two searches per group, and the exact search is one more. In between, the count of
    NaN of each tensor and the counts below and inside the bracket of each group are sent; at the end, the start
    and the ties of each shard. Normalized scores first need the largest score and the sum of squares of each
    tensor. About once in ten thousand mask updates a bracket misses its threshold; then the counts are sent again.
    """
    if world_size == 1:
        return 0
    searches = 3 * num_groups * ROUNDS * BINS
    counts = num_tensors + 2 * num_groups
    ties = 2 * num_tensors
    scales = 2 * num_tensors if normalized else 0
    return 8 * (searches + counts + ties + scales)
