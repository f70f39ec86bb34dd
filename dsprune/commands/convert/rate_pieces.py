"""The learning rate of a run as linear pieces, and the section `learning_rate` with the same values."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isclose
from typing import Any

__all__ = ["Piece", "cut", "learning_rate"]


MOST_PIECES = 10_000
"""More than any recipe has; a piece that is cut into more is not converted."""


@dataclass(frozen=True)
class Piece:
    """A linear piece of the learning rate.

    Attributes:
        start: where it begins, in epochs.
        end: where it ends, in epochs.
        first: learning rate at its start.
        last: learning rate at its end.
    """

    start: float
    end: float
    first: float
    last: float


def cut(piece: Piece, length: float) -> list[Piece]:
    """Return a piece that starts again after every `length` epochs.

    Examples:
        >>> [(piece.start, piece.end) for piece in cut(Piece(2, 9, 1.0, 0.1), 4)]
        [(2, 6), (6, 9)]
    """
    number = min(ceil((piece.end - piece.start) / length - 1e-9), MOST_PIECES)
    starts = [piece.start + i * length for i in range(number)]
    return [Piece(start, min(start + length, piece.end), piece.first, piece.last) for start in starts]


def learning_rate(pieces: Sequence[Piece], updates: Sequence[float], total: float) -> dict[str, Any] | None:
    """Return the section `learning_rate` of a recipe; None if no recipe has such a learning rate.

    Args:
        pieces: the learning rate from 0 to `total`, in order.
        updates: the mask updates, in epochs.
        total: length of the run, in epochs.
    """
    if not _is_whole(pieces, total):
        return None
    warmup, pieces = _warmup(pieces)
    peak, points = pieces[-1].first, [piece.start for piece in pieces[1:]]
    if not all(0 <= piece.last <= piece.first and piece.first > 0 for piece in pieces):
        return None
    ends = [_round(piece.last / piece.first) for piece in pieces]
    at_updates = _close(points, [update for update in updates if update > 0])
    has_dense = not (at_updates and updates[:1] == [0])
    between = ends[1:-1] if has_dense else ends[:-1]
    if not _all_close([piece.first for piece in pieces[has_dense:]], peak) or not _all_close(
        between, *between[:1]
    ):
        return None
    dense_peak = _round(pieces[0].first / peak)
    if dense_peak > 1 or (dense_peak < 1 and not at_updates):
        return None
    return {
        "peak": peak,
        "warmup": warmup,
        "dense_peak": dense_peak,
        "rewind": at_updates,
        **({} if at_updates or not points else {"rewind_at": [f"{point:g} epochs" for point in points]}),
        **({"dense_final": ends[0]} if points and has_dense else {}),
        **({"interval_final": between[0]} if between else {}),
        "final": ends[-1],
    }


def _warmup(pieces: Sequence[Piece]) -> tuple[str, Sequence[Piece]]:
    """Return the warm-up, and the pieces after it; a rise from 0 to what follows is one."""
    rise, *rest = pieces
    if rest and rise.first == 0 < rise.last and isclose(rise.last, rest[0].first):
        after = Piece(0, rest[0].end, rest[0].first, rest[0].last)
        return f"{rise.end:g} epochs", [after, *rest[1:]]
    return "0 steps", pieces


def _is_whole(pieces: Sequence[Piece], total: float) -> bool:
    """Return whether the pieces follow one another from the start of the run to its end."""
    starts = [piece.start for piece in pieces]
    return (
        bool(pieces)
        and _close(starts, [0, *(piece.end for piece in pieces[:-1])])
        and isclose(pieces[-1].end, total)
    )


def _close(values: Sequence[float], others: Sequence[float]) -> bool:
    return len(values) == len(others) and all(map(_is_close, values, others))


def _is_close(value: float, other: float) -> bool:
    return isclose(value, other, rel_tol=1e-6, abs_tol=1e-9)


def _all_close(values: Sequence[float], *other: float) -> bool:
    return all(_is_close(value, other[0]) for value in values)


def _round(value: float) -> float:
    return float(f"{value:.6g}")
