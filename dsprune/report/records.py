"""Results of runs in a csv file, which collects the runs of several machines."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from dsprune.utils.files import replace_text

__all__ = ["add_records", "read_records"]


class _Record(Protocol):
    """A dataclass of strings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> tuple[str, ...]:
        """What names the run."""


_R = TypeVar("_R", bound=_Record)


def read_records(path: Path, kind: type[_R]) -> list[_R]:
    """Return the records of a csv file, which has a column for each field of `kind`; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [kind(**row) for row in csv.DictReader(file)]


def add_records(path: Path, kind: type[_R], new: Iterable[_R]) -> list[_R]:
    """Add records to a csv file, and return all in order of their keys; a new one replaces that of the same run."""
    found = {record.key: record for record in (*read_records(path, kind), *new)}
    records = [found[key] for key in sorted(found)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, records))
    replace_text(path, text.getvalue())
    return records
