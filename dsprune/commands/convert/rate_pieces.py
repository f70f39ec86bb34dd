"""The learning rate of a run as pieces of curves, and the section `learning_rate` with the same values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isclose
from typing import Any

from dsprune.recipe.rate import RateCurve

__all__ = ["Piece", "cut", "learning_rate", "steps"]


MOST_PIECES = 10_000
"""Largest number of pieces; a piece that would be cut into more is not converted."""


@dataclass(frozen=True)
class Piece:
    """A piece of the learning rate, along a line or half a cosine.

    Attributes:
        start: its start, in epochs.
        end: its end, in epochs.
        first: learning rate at its start.
        last: learning rate at its end.
        curve: the curve between the two.
    """

    start: float
    end: float
    first: float
    last: float
    curve: RateCurve = "linear"


def cut(piece: Piece, length: float, growth: float = 1.0) -> list[Piece]:
    """Cut a piece so that it restarts after `length` epochs, which are multiplied by `growth` each time.

    Examples:
        >>> [(piece.start, piece.end) for piece in cut(Piece(2, 9, 1.0, 0.1), 4)]
        [(2, 6), (6, 9)]
    """
    found: list[Piece] = []
    start = piece.start
    while start < piece.end - 1e-9 and len(found) < MOST_PIECES:
        found.append(replace(piece, start=start, end=min(start + length, piece.end)))
        start, length = start + length, length * growth
    return found


def steps(at: Sequence[float], end: float, first: float, factor: float) -> list[Piece]:
    """Return constant pieces that begin at the epochs `at`; each is `factor` times the one before.

    Examples:
        >>> [(piece.start, piece.end, piece.last) for piece in steps([0, 3], 4, 1.0, 0.5)]
        [(0, 3, 1.0), (3, 4, 0.5)]
    """
    rates = [first * factor**number for number in range(len(at))]
    bounds = pairwise([*at, end])
    return [Piece(start, stop, rate, rate) for (start, stop), rate in zip(bounds, rates, strict=True)]


def learning_rate(pieces: Sequence[Piece], updates: Sequence[float], total: float) -> dict[str, Any] | None:
    """Return the section `learning_rate` of a recipe; None if no recipe has such a learning rate.

    The section has one curve, for the warm-up and for the decays.

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
    if stepped := _step_decay(pieces):
        return {"peak": pieces[0].first, **warmup, "dense_peak": 1.0, "rewind": False, **stepped}
    curves = {piece.curve for piece in pieces if piece.first != piece.last} or {"linear"}
    ends = [_round(piece.last / piece.first) for piece in pieces]
    at_updates = _close(points, [update for update in updates if update > 0])
    has_dense = not (at_updates and updates[:1] == [0])
    between = ends[1:-1] if has_dense else ends[:-1]
    if len(curves) > 1 or not _all_close([piece.first for piece in pieces[has_dense:]], peak):
        return None
    dense_peak = _round(pieces[0].first / peak)
    if not _all_close(between, *between[:1]) or dense_peak > 1 or (dense_peak < 1 and not at_updates):
        return None
    return {
        "peak": peak,
        **warmup,
        "dense_peak": dense_peak,
        "rewind": at_updates,
        **({} if at_updates or not points else {"rewind_at": [f"{point:g} epochs" for point in points]}),
        **({"curve": "cosine"} if curves == {"cosine"} else {}),
        **({"dense_final": ends[0]} if points and has_dense else {}),
        **({"interval_final": between[0]} if between else {}),
        "final": ends[-1],
    }


def _warmup(pieces: Sequence[Piece]) -> tuple[dict[str, Any], Sequence[Piece]]:
    """Return the settings of the warm-up, a rise to the next piece, and the pieces without it."""
    rise, *rest = pieces
    if rest and rise.first < rise.last and isclose(rise.last, rest[0].first):
        initial = {"initial": _round(rise.first / rise.last)} if rise.first else {}
        return {"warmup": f"{rise.end:g} epochs", **initial}, rest
    return {"warmup": "0 steps"}, pieces


def _step_decay(pieces: Sequence[Piece]) -> dict[str, Any] | None:
    """Return the settings of a step decay; None if the pieces are not one."""
    turns = [pieces[0], *(piece for last, piece in pairwise(pieces) if piece.first != last.last)]
    rates, bounds = [piece.first for piece in turns], [*(piece.start for piece in turns), pieces[-1].end]
    factors = [rate / last for last, rate in pairwise(rates)]
    *lengths, rest = [end - start for start, end in pairwise(bounds)]
    is_constant = all(piece.first == piece.last for piece in pieces)
    if not (factors and is_constant and _all_close(factors, factors[0]) and _all_close(lengths, lengths[0])):
        return None
    if not 0 < factors[0] < 1 or rest > lengths[0] + 1e-9:
        return None
    return {"decay_every": f"{lengths[0]:g} epochs", "decay_factor": _round(factors[0])}


def _is_whole(pieces: Sequence[Piece], total: float) -> bool:
    """Return whether the pieces cover the run from its start to its end."""
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
