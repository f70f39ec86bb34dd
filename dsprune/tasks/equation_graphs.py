"""Word problems with Graph2Tree: the model also reads graphs over the numbers of a question and the words near them."""

import json
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from re import finditer
from typing import Any, ClassVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.gts import EquationSolver, Graph2TreeConfig, Graph2TreeForEquations, GtsConfig
from dsprune.tasks.equation_trees import EquationTrees
from dsprune.tasks.equations import COLUMNS
from dsprune.tasks.rows import Column
from dsprune.tasks.source import Split

__all__ = ["EquationGraphs"]

CELLS = Column("group_nums", "the words in quantity cells, as a list of their places from 0, split at spaces")

OUTSIDE = -1
"""The place of a token outside of words, and the rank of a token that is not a number."""


@dataclass(frozen=True)
class EquationGraphs(EquationTrees):
    """Graph2Tree: input is a question with quantity cells, output the tree of an equation.

    A quantity cell is a number with the words that describe it. The data list the words of all cells of a question; a
    number's cell has the ones near it.
    """

    trained_config: ClassVar[type[GtsConfig]] = Graph2TreeConfig

    solver: ClassVar[type[EquationSolver]] = Graph2TreeForEquations

    padding: ClassVar[Mapping[str, int]] = {
        **EquationTrees.padding,
        "word_index": OUTSIDE,
        "in_cell": 0,
        "ranks": OUTSIDE,
    }

    def columns(self) -> tuple[Column, ...]:
        """Add the quantity cells."""
        return (*COLUMNS, CELLS)

    def load(self, split: Split) -> Dataset:
        """Add the words of the quantity cells; in the benchmark's files some are after the end of the question."""
        data, rows = super().load(split), self.rows(split)
        if not rows.has(CELLS.name):
            raise UserError(
                f"{rows.origin}: no column {CELLS.name!r}: task.decoder: graph2tree reads it: add {CELLS.holds}, or "
                "set task.decoder: gts"
            )
        return data.add_column("cells", rows.converted(CELLS.name, places_of, CELLS.holds))

    def remarks(self, split: Split) -> list[str]:
        """Add the rows with a quantity cell after the end of the question."""
        data, known = self.load(split), super().remarks(split)
        questions = zip(data["question"][:], data["cells"][:], strict=True)
        is_beyond = [max(cells, default=0) >= len(question.split()) for question, cells in questions]
        if not any(is_beyond):
            return known
        where = f"{sum(is_beyond)} of {len(data)} rows, first in row {is_beyond.index(True) + 1}"
        return [
            *known,
            f"{CELLS.name} names words after the end of the question, which are left out, in {where}",
        ]

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Add the place of each token's word, the words in quantity cells, and the ranks of the numbers."""
        if not tokenizer.is_fast:
            raise UserError(
                f"model.tokenizer: {type(tokenizer).__name__} does not return the positions of tokens in the text: "
                "task.decoder: graph2tree needs a fast tokenizer"
            )
        encoded = super().encode(tokenizer, rows)
        texts = self.masked(tokenizer, rows["question"])
        spans = tokenizer(
            texts, truncation=True, max_length=self.settings.max_length, return_offsets_mapping=True
        )["offset_mapping"]
        places = list(map(word_places, texts, spans))
        return {
            **encoded,
            "word_index": places,
            "in_cell": list(map(first_tokens, places, rows["cells"])),
            "ranks": list(map(ranks_of, encoded["slots"], rows["numbers"])),
        }


def places_of(value: Any) -> list[int]:
    """Return a list of places, which may be written as text.

    Raises:
        ValueError: it is not one.
    """
    places = json.loads(value) if isinstance(value, str) else value
    if not isinstance(places, list) or not all(type(place) is int and place >= 0 for place in places):
        raise ValueError(f"{value!r} is not a list of places")
    return places


def word_places(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the place of each token's word among the words of the text; special tokens are in none.

    Args:
        text: its words are separated by spaces.
        spans: first and last character of each token; the first may be the space before the word.
    """
    starts = [match.start() for match in finditer(r"\S+", text)]
    return [bisect_right(starts, end - 1) - 1 if end > start else OUTSIDE for start, end in spans]


def first_tokens(places: Sequence[int], words: Collection[int]) -> list[int]:
    """Return 1 for the first token of each of these words, 0 for all other tokens."""
    before = [OUTSIDE, *places]
    return [int(place != last and place in words) for last, place in zip(before, places, strict=False)]


def ranks_of(slots: Sequence[int], numbers: Sequence[float]) -> list[int]:
    """Return the rank of each slot's number among the numbers of the question; equal numbers have equal ranks."""
    order = sorted(set(numbers))
    return [order.index(numbers[slot]) if 0 <= slot < len(numbers) else OUTSIDE for slot in slots]
