"""The columns that a kind of task reads of one's own data."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsprune.recipe.sections import Task as TaskSettings

__all__ = ["Column", "names_of"]


@dataclass(frozen=True)
class Column:
    """A column of the data.

    Attributes:
        name: its name, unless the settings give another.
        holds: what each of its values is.
        field: the field of the task section that gives another name; None = no field does.
        needed: whether the task needs it.
    """

    name: str
    holds: str
    field: str | None = None
    needed: bool = True


def names_of(columns: Sequence[Column], settings: TaskSettings) -> list[str]:
    """Return the name of each column: that of the settings where they give one."""
    return [(column.field and getattr(settings, column.field)) or column.name for column in columns]
