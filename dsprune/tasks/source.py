"""Read the rows of a split from a local file, from a folder in the published layout, or from the hub."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from dsprune.errors import UserError
from dsprune.ranks.ranks import is_first_on_host
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS, read_table, suffix_of
from dsprune.tasks.rows import BLANK, MISSING, Rows
from dsprune.utils.text import first_line

__all__ = ["Benchmark", "HubData", "Part", "ReadTable", "Split", "read_rows", "say_once"]

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
        examples: number of examples; None = unknown.
        header: names of the columns, for a file without a header.
        rename: the file's name of a column, for each differing name in dsprune.
        where: value that a row must have in each of these columns, for a file that holds several splits.
        needed: columns, by dsprune's names, that a row must have, or it is left out: some published files have broken
            rows.
        is_folder: whether `path` is a folder, whose files are read together.
    """

    path: str
    examples: int | None = None
    header: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    is_folder: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Attributes:
        title: its name.
        source: where its authors publish it.
        licence: its licence, as stated by the authors.
        parts: its splits in the published folder.
        hub: the same data on the hub; None = not available there without code.
        note: further notes for a first run.
    """

    title: str
    source: str
    licence: str
    parts: Mapping[Split, Part]
    hub: HubData | None = None
    note: str = ""


ReadTable = Callable[[Path, str, Sequence[str]], pa.Table]
"""Reads a path into a table, given the name of the data in messages, and the columns of a file without header."""


def read_rows(
    settings: TaskSettings, split: Split, benchmark: Benchmark | None, read: ReadTable = read_table
) -> Rows:
    """Read the rows of a split from the first of these that is set: file, folder, data set, benchmark's hub name.

    A benchmark's file in the settings is read like one in the published folder.

    Args:
        settings: the recipe's task section.
        split: the split to read.
        benchmark: the published data set; None = a kind of task, for any data.
        read: reads a path, of a file or a folder, into a table.

    Raises:
        UserError: no data are given, they cannot be read, or a published folder has another number of examples.
    """
    part = benchmark.parts[split] if benchmark else None
    file = settings.train if split == "train" else settings.validation
    if file is not None:
        return _read_path(Path(file), f"task.{split}: {file}", part, read)
    if settings.folder is not None:
        return _read_published(Path(settings.folder), settings.name, split, benchmark, read)
    hub = benchmark.hub if benchmark else None
    if settings.dataset is not None:
        hub = HubData(settings.dataset, settings.config)
    if hub is None:
        way_out = "the published files in task.folder" if benchmark else "a hub name in task.dataset"
        raise UserError(f"task.{split}: no data: give a csv, tsv, jsonl or parquet file, or {way_out}")
    return _read_hub(hub, split, is_published=benchmark is not None)


def _read_published(
    folder: Path, task: str, split: Split, benchmark: Benchmark | None, read: ReadTable
) -> Rows:
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "no such folder"
        raise UserError(f"task.folder: {folder}: {what}, or name the files in task.train and task.validation")
    if benchmark is None:
        raise UserError(
            f"task.folder: {folder}: {task} is a kind of task, not a benchmark: "
            "give task.train and task.validation"
        )
    part = benchmark.parts[split]
    origin = f"task.folder: {folder / part.path}"
    rows = _read_path(folder / part.path, origin, part, read)
    if part.examples is not None and len(rows) != part.examples:
        raise UserError(
            f"{origin}: {len(rows):,} examples where {benchmark.title} has {part.examples:,}: fetch it again, "
            f"or name the file in task.{split} to use it as it is"
        )
    return rows


def _read_path(path: Path, origin: str, part: Part | None, read: ReadTable) -> Rows:
    """Read a file, or a folder if the benchmark is published as one."""
    if path.is_dir() and not (part and part.is_folder):
        is_saved = any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
        way_out = (
            "write what datasets.load_from_disk reads to one with to_parquet"
            if is_saved
            else "name a file in it"
        )
        raise UserError(f"{origin}: is a folder, not a file: {way_out}")
    table = read(path, origin, part.header if part else ())
    if part is None:
        return Rows(Dataset(table), origin, MISSING if suffix_of(path) in READERS else BLANK)
    table, numbers = _arrange(table, part, origin)
    return Rows(Dataset(table), origin, frozenset(), numbers)


def _arrange(table: pa.Table, part: Part, origin: str) -> tuple[pa.Table, list[int]]:
    """Select the part's rows and rename its columns. Missing columns are reported later, when they are read.

    Returns:
        The table, and the number of each of its rows in the file.
    """
    if set(part.rename.values()) <= set(table.column_names):  # otherwise the file has dsprune's names already
        names = {theirs: ours for ours, theirs in part.rename.items()}
        # A column that has one of dsprune's names, but another meaning in this file, is dropped.
        kept = [name for name in table.column_names if name in names or name not in part.rename]
        table = table.select(kept).rename_columns([names.get(name, name) for name in kept])
    chosen = np.ones(len(table), dtype=bool)
    for column, value in part.where.items():
        if column in table.column_names:
            chosen &= _as_flags(pc.equal(table[column], value))
    whole = np.ones(len(table), dtype=bool)
    for column in part.needed:
        if column in table.column_names:
            whole &= _as_flags(pc.is_valid(table[column]))
    if broken := np.flatnonzero(chosen & ~whole).tolist():
        which = "row" if len(broken) == 1 else "rows, the first being row"
        say_once(f"{origin}: left out {len(broken):,} broken {which} {broken[0] + 1}")
    chosen &= whole
    return table.filter(pa.array(chosen)), (np.flatnonzero(chosen) + 1).tolist()


def _as_flags(values: pa.ChunkedArray) -> np.ndarray:
    flags: np.ndarray = values.fill_null(False).to_numpy()
    return flags


@cache
def say_once(text: str) -> None:
    """Print a line about the data: once, and on one rank of each host."""
    if is_first_on_host():
        print(text, file=sys.stderr)


def _read_hub(hub: HubData, split: Split, *, is_published: bool) -> Rows:
    name = hub.validation if split == "validation" else split
    origin = f"task.dataset: {hub.name}{f' ({hub.config})' if hub.config else ''}, split {name}"
    say_once(f"{origin}: from the hub; data that are not in the local cache are downloaded")
    try:
        # Data only: from release 4 on, this library runs no code that comes with a data set.
        dataset = load_dataset(hub.name, hub.config, split=name)
        return Rows(dataset, origin, frozenset() if is_published else MISSING)
    except ConnectionError as error:
        raise UserError(
            f"{origin}: the hub cannot be reached and the data are not in the local cache: "
            f"set task.{split} to a local csv, jsonl or parquet file, or download the data set first"
        ) from error
    # ValueError: no such configuration or split; OSError: missing or no access; RuntimeError: it is code.
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        raise UserError(f"{origin}: {first_line(error)}: set task.{split} to a local file instead") from error
