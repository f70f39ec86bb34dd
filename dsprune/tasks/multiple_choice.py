"""Multiple choice: the model scores each choice together with its question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForMultipleChoice,
    DataCollatorForMultipleChoice,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS, Reader
from dsprune.tasks.labels import name_of
from dsprune.tasks.rows import Column, Rows, names_of
from dsprune.tasks.source import Benchmark, Split
from dsprune.tasks.task import Task

__all__ = ["GROUP", "MultipleChoice", "Question", "letter_or_number"]

GROUP = "group"
"""Column with the group of a question."""

COLUMNS = (
    Column("question", "a text", "text"),
    Column("choices", "a list of choices, as many in each row", "text_pair"),
    Column("label", "the correct choice: its number from 0, or its letter from A", "label"),
)


@dataclass(frozen=True)
class Question:
    """The texts of one example.

    Attributes:
        pairs: the first and the second text of each choice; if a pair is too long, the first text is cut.
        answer: the number of the correct choice, from 0.
        group: name of its part of the data; each part is also scored separately. Empty = none.
    """

    pairs: tuple[tuple[str, str], ...]
    answer: int
    group: str = ""


@dataclass(frozen=True)
class MultipleChoice(Task):
    """Multiple choice: input is a question with its choices, output the number of the best choice.

    Attributes:
        read: makes questions from rows; None = from the columns `task.text`, `task.text_pair` and `task.label`.
        num_choices: number of choices of each question; None = the number in the training data.
    """

    uses: ClassVar[tuple[str, ...]] = ("max_length", "separators")
    collator = DataCollatorForMultipleChoice
    only_for_score = (GROUP,)
    head = Head(AutoModelForMultipleChoice, ("ForMultipleChoice",), "multiple-choice")

    settings: TaskSettings
    read: Callable[[Rows], list[Question]] | None = None
    num_choices: int | None = None
    benchmark: Benchmark | None = None
    readers: Mapping[str, Reader] = field(default_factory=lambda: READERS)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the question, its choices and the correct one."""
        return COLUMNS

    def load(self, split: Split) -> Dataset:
        """Read the texts of each choice, and the number of the correct one."""
        rows, questions = self.questions(split)
        wanted = self.num_choices or (len(questions[0].pairs) if questions else 0)
        for row, question in enumerate(questions, start=1):
            found = len(question.pairs)
            if found != wanted:
                raise UserError(
                    f"{rows.origin}: question {row}: {found} choices where {wanted} are expected: fix it"
                )
            if not 0 <= question.answer < found:
                raise UserError(
                    f"{rows.origin}: question {row}: label {question.answer} is not one of 0 to {found - 1}: fix it"
                )
        return Dataset.from_dict(
            {
                "first": [[first for first, _ in question.pairs] for question in questions],
                "second": [[second for _, second in question.pairs] for question in questions],
                "labels": [question.answer for question in questions],
                GROUP: [question.group for question in questions],
            }
        )

    def questions(self, split: Split) -> tuple[Rows, list[Question]]:
        """Read the questions of a split, and their rows."""
        rows = self.rows(split)
        return rows, self.read(rows) if self.read else self._read_columns(rows)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize the pair of each choice; if a pair is too long, its first text is cut."""
        width, max_length = len(rows["first"][0]), self.settings.max_length
        pairs = [list(chain.from_iterable(rows[name])) for name in ("first", "second")]
        longest = max(map(len, tokenizer(pairs[1])["input_ids"]))
        if longest + 2 >= max_length:
            raise UserError(
                f"task.max_length: {max_length}: the longest choice has {longest} tokens, which leaves nothing "
                "for its question: raise it"
            )
        if self.settings.separators == "one":
            flat = _one_separator(tokenizer, pairs, max_length)
        else:
            flat = tokenizer(*pairs, truncation="only_first", max_length=max_length)
        features = {
            name: [values[start : start + width] for start in range(0, len(values), width)]
            for name, values in flat.items()
        }
        lengths = [max(map(len, choices)) for choices in features["input_ids"]]
        return {**features, "labels": rows["labels"], GROUP: rows[GROUP], "length": lengths}

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return one output, with a class for each choice."""
        return {"logits": self._num_choices}

    def preprocessing(self) -> str:
        """Add the number of choices, and a separator that is not the tokenizer's."""
        separator = ", one separator" if self.settings.separators == "one" else ""
        return f"{super().preprocessing()}, {self._num_choices} choices{separator}"

    def score(self, predictions: Sequence[int], dataset: Dataset) -> dict[str, float]:
        """Return the fraction of questions that are answered correctly, of all and of each group."""
        predicted, labels = np.array(predictions), np.array(dataset["labels"][:])
        scores = {"accuracy": float((predicted == labels).mean())}
        groups = np.array(dataset[GROUP][:] if GROUP in dataset.column_names else [""])
        names = sorted(set(groups.tolist()))
        for name in names if len(names) > 1 else ():
            scores[f"accuracy_{name}"] = float((predicted == labels)[groups == name].mean())
        return scores

    def _read_columns(self, rows: Rows) -> list[Question]:
        """Make questions from a text, a list of choices, and the number or letter of the correct one."""
        text, choice, label = names_of(COLUMNS, self.settings)
        texts = rows.texts(text, "task.text")
        choices = rows.converted(choice, _texts_of, "a list of choices", "task.text_pair")
        labels = rows.converted(label, letter_or_number, "a number or a letter", "task.label")
        return [
            Question(tuple((text, choice) for choice in its_choices), label)
            for text, its_choices, label in zip(texts, choices, labels, strict=True)
        ]

    @cached_property
    def _num_choices(self) -> int:
        return self.num_choices or len(self.load("train")["first"][0])


def _one_separator(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[list[str]], max_length: int
) -> dict[str, list[Any]]:
    """Encode pairs of texts with one separator between them, as fairseq does: `<s> Q </s> A </s>` with RoBERTa."""
    separator = tokenizer.sep_token_id
    probe = tokenizer("a", "b")["input_ids"]
    if separator is None or separator not in probe[:-1]:
        raise UserError(
            f"task.separators: value one: {type(tokenizer).__name__} puts no separator between texts: leave it out"
        )
    is_double = (separator, separator) in pairwise(probe)
    flat = dict(tokenizer(*pairs, truncation="only_first", max_length=max_length + is_double))
    for row, tokens in enumerate(flat["input_ids"] if is_double else ()):
        place = list(pairwise(tokens)).index((separator, separator))
        for values in flat.values():
            values[row] = values[row][:place] + values[row][place + 1 :]
    return flat


def _texts_of(choices: Any) -> list[str]:
    """Return the choices of a question, which may be numbers."""
    if not isinstance(choices, list):
        raise TypeError("not a list")
    return [name_of(choice) for choice in choices]


def letter_or_number(label: Any) -> int:
    """Return the position of an answer, from 0: 2 for 2, "2" and "C".

    Raises:
        ValueError: the label is neither a number nor a capital letter.
    """
    text = name_of(label).strip()
    return ord(text) - ord("A") if len(text) == 1 and text.isascii() and text.isupper() else int(text)
