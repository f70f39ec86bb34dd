"""Guess the kind of task and its settings from the columns of a file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dsprune.errors import UserError
from dsprune.tasks.labels import MANY
from dsprune.tasks.rows import Column, number_of

__all__ = ["Guess", "guess"]

LABELS = ("label", "labels", "class", "category", "target", "intent", "sentiment", "score", "rating", "stars")
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
)
LANGUAGE = re.compile("[a-z]{2}")
BY_COLUMNS = ("question-answering", "equation-generation", "multiple-choice")
"""Kinds of tasks that are recognised by the names of their columns."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"question-answering": {"max_length": 384}}
"""Better values for a kind than the schema's defaults: a window must hold a question, a stride and more."""


@dataclass(frozen=True)
class Guess:
    """The guess for a file.

    Attributes:
        task: the kind of task.
        settings: fields of the task section: the columns, and the directions of a translation.
    """

    task: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str | None:
        """The column of the label; None if there is none."""
        return self.settings.get("label")


def guess(
    table: pa.Table,
    origin: str,
    columns: Mapping[str, Sequence[Column]],
    task: str | None,
    is_causal: Callable[[], bool],
) -> Guess:
    """Return the kind of task and the columns of a file.

    Args:
        table: the rows of the file.
        origin: name of the file in messages.
        columns: the columns of each kind of task, by its name.
        task: the kind, if the user has named it.
        is_causal: returns whether the model predicts the next token.

    Raises:
        UserError: no column holds text.
    """
    names = table.column_names
    for kind in BY_COLUMNS if task is None else ():
        if {column.name for column in columns[kind] if column.needed} <= set(names):
            return Guess(kind, DEFAULTS.get(kind, {}))
    languages = [name for name in names if LANGUAGE.fullmatch(name)]
    if task in (None, "translation") and len(languages) == 2:
        return Guess("translation", {"pairs": ["-".join(languages)]})
    if task is not None and any(column.field is None for column in columns[task]):
        return Guess(task, DEFAULTS.get(task, {}))
    return _of_texts(table, origin, task, is_causal)


def _of_texts(table: pa.Table, origin: str, task: str | None, is_causal: Callable[[], bool]) -> Guess:
    texts = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    has_label = task is None or not task.endswith("language-modeling")
    label = _label(table, task) if has_label else None
    texts = [name for name in texts if name != label]
    if not texts:
        if lists := [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type)]:
            raise UserError(
                f"{origin}: no column of text, but lists in {', '.join(lists)}: `dsprune tasks` has no kind for "
                f"labels of single tokens: prune a script of your own with `dsprune run`, or give texts"
            )
        raise UserError(
            f"{origin}: no column of text among {', '.join(table.column_names)}: give a file with one, or name the "
            "kind of task with --task"
        )
    pair = next((pair for pair in PAIRS if set(pair) <= set(texts)), None)
    text, *second = pair or (max(texts, key=lambda name: _length(table, name)),)
    settings = {"text": text, **({"text_pair": second[0]} if second else {})}
    if label is None:
        return Guess(task or f"{'causal' if is_causal() else 'masked'}-language-modeling", {"text": text})
    kind = task or ("regression" if _is_number(table[label].to_pylist()) else "text-classification")
    return Guess(kind, {**settings, "label": label})


def _label(table: pa.Table, task: str | None) -> str | None:
    """Return the column with a usual name, otherwise the one with the fewest values; None if all have many."""
    by_name: dict[str, str] = {name.casefold(): name for name in reversed(table.column_names)}
    if usual := next((by_name[name] for name in LABELS if name in by_name), None):
        return usual
    if table.num_columns < 2:
        return None
    counts = {name: len(set(map(str, table[name].to_pylist()))) for name in table.column_names}
    most = table.num_rows if task == "regression" else min(MANY, table.num_rows // 2)
    few = {name: count for name, count in counts.items() if 1 < count <= most}
    return min(few, key=few.__getitem__) if few else None


def _is_number(values: Sequence[Any]) -> bool:
    """Return whether the values are quantities, not the numbers of a few classes."""
    try:
        numbers = {number_of(value) for value in values if value is not None}
    except (ValueError, TypeError):
        return False
    return len(numbers) > MANY or any(not number.is_integer() for number in numbers)


def _length(table: pa.Table, name: str) -> int:
    """Return the length of all texts of a column."""
    return sum(len(text or "") for text in table[name].to_pylist())
