"""Rows of a task's data, read by column and checked: messages name the field, the file, the row and the column."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from dsprune.errors import UserError

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows as they were read.

    Attributes:
        dataset: the rows.
        origin: the field and the file or data set, for messages.
    """

    dataset: Dataset
    origin: str

    def __len__(self) -> int:
        return len(self.dataset)

    def has(self, name: str) -> bool:
        """Return whether there is a column of this name."""
        return name in self.dataset.column_names

    def column(self, name: str, field: str | None = None) -> list[Any]:
        """Return all values of a column, those of a `ClassLabel` column as names.

        Args:
            name: the column.
            field: the recipe's field that names it, for messages; None = the format of the file names it.

        Raises:
            UserError: there is no such column, or a value is missing.
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
        if None in values:
            raise UserError(
                f"{self.origin}: row {values.index(None) + 1}: no value in column {name!r}: fill it in"
            )
        return values

    def texts(self, name: str, field: str | None = None) -> list[str]:
        """Return all values of a column of text.

        Raises:
            UserError: there is no such column, a value is missing, or the values are not text.
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
            UserError: there is no such column, or a value is missing or not a number.
        """
        return self.converted(name, float, "a number", field)

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
            UserError: there is no such column, a value is missing, or `convert` fails.
        """
        converted = []
        for row, value in enumerate(self.column(name, field), start=1):
            try:
                converted.append(convert(value))
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"{self.origin}: row {row}: {str(value)[:80]!r} in column {name!r} is not {what}: fix it"
                ) from error
        return converted

    def class_names(self, name: str) -> list[str] | None:
        """Return the names of a `ClassLabel` column in their own order; None for any other column."""
        feature = self.dataset.features[name]
        return feature.names if isinstance(feature, ClassLabel) else None
