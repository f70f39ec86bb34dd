"""Rows of a task's data, read by column and checked: messages name the field, the file, the row and the column.

A kind of task lists the columns that it reads from a user's own data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings

__all__ = ["BLANK", "MISSING", "Column", "Rows", "check_columns", "names_of", "number_of"]

BLANK = frozenset({""})
"""Texts that mean a missing value in plain text files: white space only."""

MISSING = (
    BLANK
    | {"nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "None", "<NA>", "N/A", "n/a"}
    | {"\\N"}  # of MySQL and PostgreSQL
    | {"#N/A", "#NA", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"}  # of spreadsheets
)
"""Texts that mean a missing value in a user's own table."""


@dataclass(frozen=True)
class Rows:
    """The rows of a split.

    Attributes:
        dataset: the rows.
        origin: the field and the file or data set, for messages.
        missing: texts that mean a missing value; empty for a published data set, where they are ordinary texts.
        row_numbers: `[rows]`, the number of each row in the file, from 1; None = all rows of the file are here.
    """

    dataset: Dataset
    origin: str
    missing: frozenset[str] = MISSING
    row_numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def has(self, name: str) -> bool:
        """Return whether there is a column of this name."""
        return name in self.dataset.column_names

    def where(self, place: int) -> str:
        """Return the start of a message on a row, counted from 0."""
        return f"{self.origin}: row {place + 1 if self.row_numbers is None else self.row_numbers[place]}"

    def is_missing(self, value: Any) -> bool:
        """Return whether a value, or an element of a list, is missing: null, NaN, or one of the texts for them."""
        if isinstance(value, str):
            return value.strip() in self.missing
        if isinstance(value, list):
            return any(map(self.is_missing, value))
        return value is None or (isinstance(value, float) and math.isnan(value))

    def text(self, value: Any) -> str:
        """Return a value that must be a text, for `converted`.

        Raises:
            ValueError: the value is not a text, or is missing.
        """
        if not isinstance(value, str) or self.is_missing(value):
            raise ValueError(f"{value!r} is not a text")
        return value

    def column(self, name: str, field: str | None = None) -> list[Any]:
        """Return all values of a column; those of a `ClassLabel` column as names.

        Args:
            name: the column.
            field: the recipe's field with its name, for messages; None = the format of the file determines it.

        Raises:
            UserError: the column does not exist, or a value is missing.
        """
        columns = self.dataset.column_names
        if name not in columns:
            others = ", ".join(columns) or "none"
            way_out = (
                f"set {field} to one of {others}"
                if field
                else f"the columns are {others}: give the task's own file"
            )
            raise UserError(f"{self.origin}: no column {name!r}: {way_out}")
        values: list[Any] = self.dataset[name][:]
        feature = self.dataset.features[name]
        if isinstance(feature, ClassLabel):
            # The hub marks rows without a label with -1.
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        for place, value in enumerate(values):
            if self.is_missing(value):
                found = f" (it holds {value!r})" if value and value == value else ""
                raise UserError(f"{self.where(place)}: no value in column {name!r}{found}: fill it in")
        return values

    def texts(self, name: str, field: str | None = None) -> list[str]:
        """Return all values of a column of text.

        Raises:
            UserError: the column does not exist, a value is missing, or the values are not text.
        """
        values = self.column(name, field)
        if values and not isinstance(values[0], str):
            kind = type(values[0]).__name__
            way_out = f"set {field} to another" if field else "give the task's own file"
            raise UserError(f"{self.origin}: column {name!r} holds {kind}, not text: {way_out}")
        return values

    def numbers(self, name: str, field: str | None = None) -> list[float]:
        """Return all values of a column of numbers, which may be written as text.

        Raises:
            UserError: the column does not exist, or a value is missing, infinite or not a number.
        """
        return self.converted(name, number_of, "a number", field)

    def converted(
        self, name: str, convert: Callable[[Any], Any], what: str, field: str | None = None
    ) -> list[Any]:
        """Return all values of a column, converted.

        Args:
            name: the column.
            convert: converts a value; raises a ValueError, LookupError or TypeError for an invalid one.
            what: description of a valid value, for messages.
            field: the recipe's field that names the column, for messages.

        Raises:
            UserError: the column does not exist, a value is missing, or `convert` fails.
        """
        converted = []
        for place, value in enumerate(self.column(name, field)):
            try:
                converted.append(convert(value))
            except (ValueError, LookupError, TypeError, ArithmeticError) as error:
                raise UserError(
                    f"{self.where(place)}: {str(value)[:80]!r} in column {name!r} is not {what}: fix it"
                ) from error
        return converted

    def class_names(self, name: str) -> list[str] | None:
        """Return the names of a `ClassLabel` column in their own order; None for any other column."""
        feature = self.dataset.features[name]
        return feature.names if isinstance(feature, ClassLabel) else None


def number_of(value: Any) -> float:
    """Return a number, which may be written as text.

    Raises:
        ValueError: it is not a number, or not finite.
    """
    number = float(value)
    if not math.isfinite(number) or isinstance(value, bool) or "_" in str(value):
        raise ValueError(f"{value!r} is not a number")
    return number


@dataclass(frozen=True)
class Column:
    """A column of the data.

    Attributes:
        name: its name, unless the settings give another.
        holds: description of its values.
        field: the field of the task section that gives another name; None = no field does.
        needed: whether the task needs it.
    """

    name: str
    holds: str
    field: str | None = None
    needed: bool = True


def names_of(columns: Sequence[Column], settings: TaskSettings) -> list[str]:
    """Return the name of each column, from the settings if they have one."""
    return [(column.field and getattr(settings, column.field)) or column.name for column in columns]


def check_columns(columns: Sequence[Column], settings: TaskSettings) -> None:
    """Check that the settings give each column only one meaning.

    Raises:
        UserError: two of them name the same column.
    """
    seen: dict[str, Column] = {}
    for column, name in zip(columns, names_of(columns, settings), strict=True):
        first = seen.setdefault(name, column)
        if name and first is not column:
            field = f"task.{column.field or first.field}"
            raise UserError(
                f"{field}: value {name}: the column is {first.holds} and {column.holds}: name another"
            )
