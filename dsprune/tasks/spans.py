"""Answer spans in a window of tokens: from characters to tokens for training, and back for predictions."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

__all__ = ["NUM_CANDIDATES", "Candidates", "best_span", "find_tokens", "in_context"]

NUM_CANDIDATES = 20
"""Number of starts and ends to consider in each window, as in the published evaluations of BERT."""


class Candidates(NamedTuple):
    """The most likely starts and ends of a window: token positions, and their logits."""

    starts: list[int]
    start_logits: list[float]
    ends: list[int]
    end_logits: list[float]


def in_context(offsets: Sequence[Sequence[int]], parts: Sequence[int | None]) -> list[list[int]]:
    """Return the offsets of a window's tokens, `[-1, -1]` outside of the context.

    Args:
        offsets: first and last character of each token; those of the question are positions in the question.
        parts: the source of each token: 0 = question, 1 = context, None = neither.
    """
    return [list(span) if part == 1 else [-1, -1] for span, part in zip(offsets, parts, strict=True)]


def find_tokens(offsets: Sequence[Sequence[int]], start: int, text: str) -> tuple[int, int]:
    """Return the first and the last token of an answer, or (0, 0) if the window does not hold all of it.

    Args:
        offsets: first and last character of each token, `[-1, -1]` for tokens that are not from the context.
        start: character where the answer begins.
        text: the answer.
    """
    end = start + len(text)
    places = np.array(offsets)
    inside = np.flatnonzero((places[:, 0] < end) & (places[:, 1] > start) & (places[:, 0] >= 0))
    if not len(inside):
        return 0, 0
    first, last = int(inside[0]), int(inside[-1])
    cut = places[first, 0] > start and first and places[first - 1, 0] < 0
    cut = cut or (places[last, 1] < end and (last + 1 == len(places) or places[last + 1, 0] < 0))
    return (0, 0) if cut else (first, last)


def best_span(
    candidates: Candidates, offsets: Sequence[Sequence[int]], max_answer: int
) -> tuple[float, int, int]:
    """Return the most likely span of the context: the sum of its logits, and its first and end character.

    Of spans with equal sums, the first in the order of the candidates wins. Without a valid span, the result is
    `(-inf, 0, 0)`.

    Args:
        candidates: starts and ends to combine.
        offsets: as for `find_tokens`.
        max_answer: longest span, in tokens.
    """
    best = (-float("inf"), 0, 0)
    starts = zip(candidates.starts, candidates.start_logits, strict=True)
    ends = zip(candidates.ends, candidates.end_logits, strict=True)
    for (start, start_logit), (end, end_logit) in product(starts, ends):
        fits = start <= end < start + max_answer and offsets[start][0] >= 0 and offsets[end][0] >= 0
        if fits and start_logit + end_logit > best[0]:
            best = (start_logit + end_logit, offsets[start][0], offsets[end][1])
    return best
