"""Spans of a window of tokens: where an answer is, and which one a model means."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

__all__ = ["NUM_CANDIDATES", "Candidates", "best_span", "find_tokens"]

NUM_CANDIDATES = 20
"""Starts and ends of each window that are looked at together, as in the published evaluations of BERT."""


class Candidates(NamedTuple):
    """The likeliest starts and ends of a window: token positions, and their logits."""

    starts: list[int]
    start_logits: list[float]
    ends: list[int]
    end_logits: list[float]


def find_tokens(offsets: Sequence[Sequence[int]], start: int, text: str) -> tuple[int, int]:
    """The first and the last token of an answer; the window's first one twice where it is not all in there.

    Args:
        offsets: characters of each token, `[-1, -1]` for those that are not the text's.
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
    """The sum of logits, and the characters from and to, of the likeliest span that is a part of the text.

    Of equal ones the first in the order of candidates; -inf and no characters where there is none.
    """
    best = (-float("inf"), 0, 0)
    starts = zip(candidates.starts, candidates.start_logits, strict=True)
    ends = zip(candidates.ends, candidates.end_logits, strict=True)
    for (start, start_logit), (end, end_logit) in product(starts, ends):
        fits = start <= end < start + max_answer and offsets[start][0] >= 0 and offsets[end][0] >= 0
        if fits and start_logit + end_logit > best[0]:
            best = (start_logit + end_logit, offsets[start][0], offsets[end][1])
    return best
