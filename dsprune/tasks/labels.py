"""Class labels: their names in the data and in a trained model, and the check that both agree."""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import PretrainedConfig

from dsprune.errors import UserError
from dsprune.tasks.rows import Rows, number_of
from dsprune.tasks.source import say_once
from dsprune.utils.text import short

__all__ = ["check_same_labels", "describe_labels", "find_labels", "labels_of", "name_of", "number_labels"]

MANY, SHARE = 20, 0.9
"""A column with more different values than this number and this fraction of the rows does not hold labels."""

NUM_SHOWN = 10
"""Largest number of labels to list."""


def find_labels(rows: Rows, column: str) -> tuple[str, ...]:
    """Return the names of the labels in a column.

    They are in the order of the data set if it has one, otherwise sorted; numbers are sorted as numbers.

    Raises:
        UserError: there are fewer than two, nearly as many as rows, or two that look the same.
    """
    values = _names(rows, column)
    names = rows.class_names(column) or sorted(set(values), key=_by_number_then_name)
    way_out = "set task.label to another"
    if len(names) < 2:
        raise UserError(f"{rows.origin}: column {column!r} holds fewer than two labels: {way_out}")
    if (found := len(set(values))) > max(MANY, SHARE * len(values)):
        raise UserError(
            f"{rows.origin}: column {column!r} holds {found:,} labels in {len(values):,} rows, as a column of texts "
            f"or numbers does: {way_out}"
        )
    for name, other in pairwise(sorted(names, key=_looks)):
        if _looks(name) == _looks(other):
            raise UserError(
                f"{rows.origin}: column {column!r}: the labels {name!a} and {other!a} {_difference(name, other)}: "
                f"write them alike"
            )
    return tuple(names)


def number_labels(rows: Rows, column: str, labels: Sequence[str], *, by_number: bool) -> list[int]:
    """Return the label of each row as its position in `labels`.

    Args:
        rows: the data.
        column: the column of the label.
        labels: names of the labels.
        by_number: accept positions instead of names, because files of well-known tasks often have them.

    Raises:
        UserError: a row has another label.
    """
    numbers = {str(number): number for number in range(len(labels))} if by_number else {}
    numbers |= {name: number for number, name in enumerate(labels)}
    values = _names(rows, column)
    for place, value in enumerate(values):
        if value not in numbers:
            raise UserError(
                f"{rows.where(place)}: label {value!r} is unknown: use one of {', '.join(labels)}"
            )
    return [numbers[value] for value in values]


def _names(rows: Rows, column: str) -> list[str]:
    """Return the name of each row's label."""
    values = rows.column(column, "task.label")
    for place, value in enumerate(values):
        if isinstance(value, list | dict):
            raise UserError(
                f"{rows.where(place)}: label {short(value)}: column {column!r} holds {type(value).__name__}, where an "
                f"example has one label: set task.label to another"
            )
    return [name_of(value) for value in values]


def name_of(value: object) -> str:
    """Return a label as text; an integer and the same number as a float have equal texts."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def describe_labels(labels: Sequence[str], numbers: Sequence[int]) -> str:
    """Return the labels in one line, with the number of examples of each."""
    counts = Counter(numbers)
    parts = [f"{name} ({counts[number]:,})" for number, name in enumerate(labels)]
    if len(labels) > NUM_SHOWN:
        rarest = parts[min(range(len(labels)), key=counts.__getitem__)]
        parts[NUM_SHOWN:] = [f"and {len(labels) - NUM_SHOWN:,} more, the rarest {rarest}"]
    return f"{len(labels):,} classes: {', '.join(parts)}"


def labels_of(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a classification model's labels, in the order of its outputs."""
    names = {int(number): name for number, name in (config.id2label or {}).items()}
    return tuple(names[number] for number in sorted(names))


def check_same_labels(path: str, config: PretrainedConfig, labels: Sequence[str]) -> None:
    """Check that a trained model has the labels of the task.

    The same number of other names is accepted, with a message unless they are numbers: the default names of
    transformers are `LABEL_0`, `LABEL_1`.

    Raises:
        UserError: their number differs, or their order, in which case the accuracy would be meaningless.
    """
    theirs = labels_of(config)
    if len(theirs) != len(labels):
        raise UserError(
            f"model {path!r}: was trained for {len(theirs)} labels and the task has {len(labels)} "
            f"({', '.join(labels)}): choose a model of this task, or set model.new_head: true for a new head"
        )
    folded, wanted = [name.casefold() for name in theirs], [name.casefold() for name in labels]
    if folded != wanted and sorted(folded) == sorted(wanted):
        raise UserError(
            f"model {path!r}: has its labels in the order {', '.join(theirs)} and the task in the order "
            f"{', '.join(labels)}: choose a model that was trained in the task's order, or set model.new_head: "
            f"true for a new head"
        )
    if folded != wanted and not (_are_numbers(theirs) or _are_numbers(labels)):
        say_once(
            f"model {path}: was trained for the labels {_listed(theirs)}: they are taken as the task's, "
            f"{_listed(labels)}, in this order"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_SHOWN]) + (", ..." if len(names) > NUM_SHOWN else "")


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.removeprefix("LABEL_").isdecimal() for name in names)


def _looks(label: str) -> tuple[float, str]:
    """Return the number in a label, or its name without case, hidden characters and outer white space."""
    number, _ = _by_number_then_name(label)
    shown = (one for one in unicodedata.normalize("NFKC", label) if unicodedata.category(one) != "Cf")
    return number, "".join(shown).strip().casefold() if math.isinf(number) else ""


def _difference(name: str, other: str) -> str:
    """Describe the difference of two labels that look the same."""
    if name.strip() == other.strip():
        return "differ only in white space"
    if math.isfinite(_looks(name)[0]):
        return "differ, but are the same number"
    is_case = name.strip().casefold() == other.strip().casefold()
    return f"differ in {'capital letters' if is_case else 'characters that look the same'} alone"


def _by_number_then_name(label: str) -> tuple[float, str]:
    try:
        return number_of(label), label
    except ValueError:
        return math.inf, label
