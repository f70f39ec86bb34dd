"""The bytes of the messages of a mask update, which do not depend on the number of ranks."""

from collections.abc import Sequence

from dsprune.masks.cut_bands import band_bytes
from dsprune.selection.groups import Group
from dsprune.selection.search import BINS, ROUNDS
from dsprune.selection.ties import tie_rounds

__all__ = ["row_bytes", "update_bytes"]


def update_bytes(
    groups: Sequence[Group], world_size: int, normalized: bool = False, regrows: bool = False
) -> int:
    """Return the most bytes that one rank passes to all-reduces in a mask update, and as many that it gets back.

    Every number takes eight bytes. Guessing the brackets takes two searches per group, and the exact search is one
    more; each ends as soon as it can. The first message of the exact search also holds the number of NaN of each
    tensor, and the numbers below and inside the bracket of each group. Groups that prune some of their ties search
    their last one. Normalized scores first need the largest score and the sum of squares of each tensor. About once in
    ten thousand mask updates a bracket misses its threshold; then a message is sent again. In groups with rows there is
    no search: the message holds the number of NaN of each tensor, and of rows with too many zeros. Growth is a second
    selection; the last mask update goes without it.

    Args:
        groups: the groups of tensors that are ranked together.
        world_size: number of ranks that share the weights.
        normalized: whether the scores are normalized.
        regrows: whether weights grow back.
    """
    if world_size == 1:
        return 0
    num_groups, num_tensors = len(groups), sum(len(group.tensors) for group in groups)
    searches = 3 * num_groups * ROUNDS * BINS
    counts = num_tensors + 2 * num_groups
    scales = 2 * num_tensors if normalized else 0
    found = 2 * num_tensors if _has_rows(groups) else searches + counts + _most_for_ties(groups)
    return 8 * (found + scales) * (2 if regrows else 1)


def row_bytes(groups: Sequence[Group], world_size: int, regrows: bool = False) -> int:
    """Return the most bytes that one rank passes to collectives in a mask update for rows that shards cut."""
    if not _has_rows(groups):
        return 0
    return band_bytes([group.band for group in groups], world_size) * (2 if regrows else 1)


def _has_rows(groups: Sequence[Group]) -> bool:
    return any(group.num_rows > 1 for group in groups)


def _most_for_ties(groups: Sequence[Group]) -> int:
    """Return the most numbers that the search for the last tie sends, whichever groups take part."""
    largest = max(group.num_weights for group in groups)
    plans = ((number, *tie_rounds(number, largest)) for number in range(1, len(groups) + 1))
    return max(number * rounds << digit for number, rounds, digit in plans)
