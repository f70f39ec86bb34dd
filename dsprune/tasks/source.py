"""Reading the rows of a split: from a local file, from a folder in the published layout, or from the hub."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from dsprune.errors import UserError
from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.data_files import read_table
from dsprune.tasks.rows import Rows
from dsprune.utils.text import first_line

__all__ = ["Benchmark", "HubData", "Part", "ReadTable", "Split", "read_rows"]

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and the name of its validation split."""

    name: str
    config: str | None = None
    validation: str = "validation"


@dataclass(frozen=True)
class Part:
    """A split in the folder that the authors publish.

    Attributes:
        path: file, or folder of files, inside that folder.
        examples: number of examples; None = not known for certain.
        header: names of the columns, for a file without a header.
        rename: the file's name of a column, for each of dsprune's names that differs.
        where: value that a row must have in each of these columns, for a file that holds several splits.
    """

    path: str
    examples: int | None = None
    header: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Attributes:
        title: its name.
        source: where its authors publish it.
        licence: its terms, as far as the authors state them.
        parts: its splits in that publication.
        hub: the same data on the hub; None = not there in a form that is data alone, without code.
        note: what else to know before a first run.
    """

    title: str
    source: str
    licence: str
    parts: Mapping[Split, Part]
    hub: HubData | None = None
    note: str = ""


ReadTable = Callable[[Path, str, Sequence[str]], pa.Table]
"""Reads a path into a table; also gets the name of the data in messages, and the columns of a file without header."""


def read_rows(
    settings: TaskSettings,
    split: Split,
    benchmark: Benchmark | None,
    read: ReadTable = read_table,
) -> Rows:
    """Read the rows of a split from the first of these that is set: file, folder, data set, benchmark's hub name.

    Args:
        settings: the recipe's task section.
        split: the split to read.
        benchmark: the published data set; None = a kind of task, for any data.
        read: reads a path, of a file or a folder, into a table.

    Raises:
        UserError: no data are given, they cannot be read, or a published folder has another number of examples.
    """
    file = settings.train if split == "train" else settings.validation
    if file is not None:
        origin = f"task.{split}: {file}"
        return Rows(Dataset(read(Path(file), origin, ())), origin)
    if settings.folder is not None:
        return _read_published(Path(settings.folder), settings.name, split, benchmark, read)
    hub = benchmark.hub if benchmark else None
    if settings.dataset is not None:
        hub = HubData(settings.dataset, settings.config)
    if hub is None:
        way_out = "the published files in task.folder" if benchmark else "a hub name in task.dataset"
        raise UserError(f"task.{split}: no data: give a csv, tsv, jsonl or parquet file, or {way_out}")
    return _read_hub(hub, split)


def _read_published(
    folder: Path, task: str, split: Split, benchmark: Benchmark | None, read: ReadTable
) -> Rows:
    if benchmark is None:
        raise UserError(
            f"task.folder: {folder}: {task} is a kind of task, not a benchmark: "
            "give task.train and task.validation"
        )
    part = benchmark.parts[split]
    origin = f"task.folder: {folder / part.path}"
    rows = Rows(_arrange(Dataset(read(folder / part.path, origin, part.header)), part), origin)
    if part.examples is not None and len(rows) != part.examples:
        raise UserError(
            f"{origin}: {len(rows):,} examples where {benchmark.title} has {part.examples:,}: fetch it again, "
            f"or name the file in task.{split} to use it as it is"
        )
    return rows


def _arrange(dataset: Dataset, part: Part) -> Dataset:
    """Select the part's rows and rename its columns. Missing columns are reported later, where they are read."""
    table = dataset.data.table
    for column, value in part.where.items():
        if column in table.column_names:
            table = table.filter(pc.equal(table[column], value))
    names = {theirs: ours for ours, theirs in part.rename.items()}
    # A column that has one of our names, but another meaning in this file, is dropped.
    kept = [name for name in table.column_names if name in names or name not in part.rename]
    table = table.select(kept)
    return Dataset(table.rename_columns([names.get(name, name) for name in kept]))


@cache
def _announce(origin: str) -> None:
    """Print that data may be downloaded: once, and on one rank of each host."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{origin}: from the hub; data that are not in the local cache are downloaded", file=sys.stderr)


def _read_hub(hub: HubData, split: Split) -> Rows:
    name = hub.validation if split == "validation" else split
    origin = f"task.dataset: {hub.name}{f' ({hub.config})' if hub.config else ''}, split {name}"
    _announce(origin)
    try:
        # Data only: from release 4 on, this library runs no code that comes with a data set.
        return Rows(load_dataset(hub.name, hub.config, split=name), origin)
    except ConnectionError as error:
        raise UserError(
            f"{origin}: the hub cannot be reached and the data are not in the local cache: "
            f"set task.{split} to a local csv, jsonl or parquet file, or download the data set first"
        ) from error
    # ValueError: no such configuration or split; OSError: missing or no access; RuntimeError: it is code.
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        raise UserError(f"{origin}: {first_line(error)}: set task.{split} to a local file instead") from error
