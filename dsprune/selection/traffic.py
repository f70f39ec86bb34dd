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
    """Return the most bytes that one rank sends in all-reduces of a mask update; it receives as many.

    Every number takes eight bytes. A group needs two searches for its bracket and one exact search; each may end early.
    The first message of the exact search also holds the number of NaN scores of each tensor, and the numbers of keys
    below and inside the bracket of each group. Groups that prune some of their ties also search the last one.
    Normalized scores first need the largest score and the sum of squares of each tensor. About once in ten thousand
    mask updates a bracket misses its threshold, and a message is sent again. Groups with rows need no search: the
    message holds the number of NaN scores of each tensor, and of rows with too many zeros. Growth is a second
    selection, which the last mask update does not need.

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
    """Return the most bytes that one rank sends in a mask update for rows that shards cut."""
    if not _has_rows(groups):
        return 0
    return band_bytes([group.band for group in groups], world_size) * (2 if regrows else 1)


def _has_rows(groups: Sequence[Group]) -> bool:
    return any(group.num_rows > 1 for group in groups)


def _most_for_ties(groups: Sequence[Group]) -> int:
    """Return the most numbers that the search for the last tie sends, for any set of groups."""
    largest = max(group.num_weights for group in groups)
    plans = ((number, *tie_rounds(number, largest)) for number in range(1, len(groups) + 1))
    return max(number * rounds << digit for number, rounds, digit in plans)
