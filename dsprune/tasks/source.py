"""Rows of a task's data: from a local file, or from the hub."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetsError
from pyarrow import csv, json, parquet

from dsprune.errors import UserError
from dsprune.tasks.reason import reason
from dsprune.tasks.task import Split, TaskSettings

__all__ = ["HubData", "Rows", "read_rows"]


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and what its validation split is called."""

    name: str
    config: str | None = None
    validation: str = "validation"


@dataclass(frozen=True)
class Rows:
    """Rows as they were read, and the field and file that messages about them name."""

    dataset: Dataset
    origin: str

    def column(self, name: str, field: str) -> list[Any]:
        """All values of a column; values of a `ClassLabel` column as names.

        Raises:
            UserError: there is no such column, or a value is missing.
        """
        columns = self.dataset.column_names
        if name not in columns:
            raise UserError(f"{self.origin}: no column {name!r}: set {field} to one of {', '.join(columns)}")
        values = self.dataset[name][:]
        feature = self.dataset.features[name]
        if isinstance(feature, ClassLabel):
            # The hub marks rows without a label with -1.
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        if None in values:
            raise UserError(
                f"{self.origin}: row {values.index(None) + 1}: no value in column {name!r}: fill it in"
            )
        return values

    def texts(self, name: str, field: str) -> list[str]:
        """All values of a column of text.

        Raises:
            UserError: there is no such column, a value is missing, or the values are no text.
        """
        values = self.column(name, field)
        if values and not isinstance(values[0], str):
            kind = type(values[0]).__name__
            raise UserError(f"{self.origin}: column {name!r} holds {kind}, not text: set {field} to another")
        return values

    def class_names(self, name: str) -> list[str] | None:
        """The names of a `ClassLabel` column in their own order; None for any other column."""
        feature = self.dataset.features[name]
        return feature.names if isinstance(feature, ClassLabel) else None


def read_rows(settings: TaskSettings, split: Split, hub: HubData | None) -> Rows:
    """The rows of a split: of the file that the settings name, else of their data set, else of `hub`.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    file = settings.train if split == "train" else settings.validation
    if file is not None:
        return _read_file(Path(file), f"task.{split}: {file}")
    if settings.dataset is not None:
        hub = HubData(settings.dataset, settings.config)
    if hub is None:
        raise UserError(
            f"task.{split}: no data: give a csv, jsonl or parquet file, or a hub name in task.dataset"
        )
    return _read_hub(hub, split)


def _read_csv(path: Path) -> pa.Table:
    quoting = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, parse_options=quoting) as reader:
        names = reader.schema.names
    # All as text: with types guessed from the values, labels such as "01" and "true" would not stay so.
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return csv.read_csv(path, parse_options=quoting, convert_options=as_text)


def _read_jsonl(path: Path) -> pa.Table:
    return json.read_json(path)


def _read_parquet(path: Path) -> pa.Table:
    return parquet.read_table(path)


_READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_file(path: Path, origin: str) -> Rows:
    if path.suffix not in _READERS:
        raise UserError(f"{origin}: unknown kind of file {path.suffix!r}: use one of {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{origin}: no such file: give the path of an existing one")
    try:
        return Rows(Dataset(_READERS[path.suffix](path)), origin)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{origin}: not a valid {path.suffix[1:]} file: {reason(error)}") from error


def _read_hub(hub: HubData, split: Split) -> Rows:
    name = hub.validation if split == "validation" else split
    origin = f"task.dataset: {hub.name}{f' ({hub.config})' if hub.config else ''}, split {name}"
    try:
        return Rows(load_dataset(hub.name, hub.config, split=name), origin)
    except ConnectionError as error:
        raise UserError(
            f"{origin}: the hub is out of reach and the data are not in the local cache: "
            f"set task.{split} to a local csv, jsonl or parquet file, or download the data set first"
        ) from error
    # ValueError: no such configuration or split; OSError: none there or no access; RuntimeError: it is code.
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"{origin}: {reason(error)}: set task.{split} to a local file to go without"
        ) from error
