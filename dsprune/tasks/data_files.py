"""Data files: csv, tsv, JSON lines and parquet as tables, text files as lines, and parallel corpora.

No text is converted by its appearance: "2020-01-01", "01" and "true" stay texts.
"""

import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dsprune.errors import UserError
from dsprune.tasks.rows import Rows
from dsprune.tasks.text_files import COMPRESSED, lines_of, read_text
from dsprune.utils.documents import without_duplicates
from dsprune.utils.text import first_line

__all__ = ["READERS", "Reader", "read_parallel", "read_table", "sentences", "suffix_of"]

Reader = Callable[[Path, Sequence[str]], pa.Table]
"""Reads a file; the second argument names the columns of a file without a header."""

LONGEST_FIELD = 2**31 - 1
"""Characters; Python's own limit of a csv field is 131,072."""


def read_table(
    path: Path, origin: str, header: Sequence[str] = (), readers: Mapping[str, Reader] | None = None
) -> pa.Table:
    """Read a file, or all files of a folder that have a reader, in the order of their names.

    Args:
        path: the file or folder.
        origin: name of the data in messages.
        header: names of the columns, for a file without a header.
        readers: by suffix of the file's name; None = `READERS`.

    Raises:
        UserError: the file does not exist, or cannot be read.
    """
    readers = READERS if readers is None else readers
    if not path.is_dir():
        return _read(path, origin, readers, header)
    files = sorted(file for file in path.iterdir() if suffix_of(file) in readers)
    if not files:
        raise UserError(f"{origin}: holds no {', '.join(readers)} file: give another folder")
    try:
        tables = [_read(file, str(file), readers, header) for file in files]
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"{origin}: its files do not have the same columns: {first_line(error)}") from error


def _read(path: Path, origin: str, readers: Mapping[str, Reader], header: Sequence[str]) -> pa.Table:
    suffix = suffix_of(path)
    if suffix not in readers:
        raise UserError(f"{origin}: unknown kind of file {suffix!r}: use one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{origin}: no such file: give the path of an existing one")
    try:
        table = readers[suffix](path, header)
    except (
        *(pa.ArrowException, csv.Error, zlib.error, OSError, EOFError),
        *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
    ) as error:
        raise UserError(f"{origin}: not a valid {suffix[1:]} file: {first_line(error)}") from error
    for name, count in Counter(table.column_names).items():
        if count > 1:
            raise UserError(f"{origin}: {count} columns are called {name!r}: rename or remove all but one")
    return table


def suffix_of(path: Path) -> str:
    """Return the suffix of a file, in lower case and without a final `.gz`."""
    name = Path(path.name.lower())
    return name.with_suffix("").suffix if name.suffix == COMPRESSED else name.suffix


def _csv(path: Path, header: Sequence[str]) -> pa.Table:
    csv.field_size_limit(LONGEST_FIELD)
    # Strict: a quotation mark inside a quoted field must be doubled. Otherwise \" would change the text.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    return _as_table(_numbered(rows), header, may_be_short=False)


def _tsv(path: Path, header: Sequence[str]) -> pa.Table:
    # Quotation marks have no meaning in these files: GLUE's have unpaired ones. Some rows of GLUE are truncated.
    rows = (line.split("\t") for line in lines_of(path))
    return _as_table(enumerate(row for row in rows if row != [""]), header, may_be_short=True)


def _numbered(rows: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Number the rows that are not empty, with the header as 0; name the row in which the file is invalid."""
    number = 0
    try:
        for row in rows:
            if not number and len(row) == 1 and (other := re.search(r"[;\t]", row[0])):
                raise ValueError(f"no comma in its header, {row[0]!r}: write commas in place of {other[0]!r}")
            if row:
                yield number, row
                number += 1
    except csv.Error as error:
        raise ValueError(
            f"row {number}: {first_line(error)} (a quotation mark inside quotes is written twice)"
        ) from error


def _as_table(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], *, may_be_short: bool
) -> pa.Table:
    """Make a table of text. A short row has no value in its last columns."""
    values: list[list[str | None]] = []
    names: list[str] = []
    for number, row in rows:
        if not number:
            has_none = len(row) == len(header) and not set(row) & set(header)
            names = list(header) if has_none else row
            if not has_none:
                continue
        if row == names:
            raise ValueError(f"row {number} repeats the header, as in joined files: remove it")
        missing = len(names) - len(row)
        if missing < 0 or (missing and not may_be_short):
            raise ValueError(f"row {number} has {len(row)} fields and the header has {len(names)}")
        values.append([*row, *[None] * missing])
    if not names:
        raise ValueError("it is empty")
    columns = zip(*values, strict=True) if values else ([] for _ in names)
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], names)


def _jsonl(path: Path, header: Sequence[str]) -> pa.Table:
    rows = [_object(number, line) for number, line in enumerate(lines_of(path), start=1) if line.strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        found = "begins an array" if number == 1 and line.lstrip().startswith("[") else first_line(error)
        raise ValueError(f"line {number}: {found}: write one object in each line") from error
    if not isinstance(value, dict):
        raise ValueError(f"line {number} holds a {type(value).__name__}: write one object in each line")
    return value


def _column(name: str, values: list[Any]) -> pa.Array:
    kinds = [(type(value), row) for row, value in enumerate(values, start=1) if value is not None]
    first = kinds[0] if kinds else (str, 0)
    try:
        if len({kind is bool for kind, _ in kinds}) > 1:  # which would become 0 and 1
            raise pa.ArrowInvalid("true and false are neither numbers nor texts")
        return pa.array(values, from_pandas=True)  # with NaN as no value
    except OverflowError as error:
        row = next(row for row, value in enumerate(values, start=1) if _is_large(value))
        raise ValueError(
            f"row {row}: column {name!r} holds a number of more than 64 bits: write it as text"
        ) from error
    except pa.ArrowException as error:
        kind, row = next((one for one in kinds if one[0] is not first[0]), first)
        raise ValueError(
            f"row {row}: column {name!r} holds {kind.__name__} here and {first[0].__name__} in row {first[1]}: "
            f"{first_line(error)}"
        ) from error


def _is_large(value: Any) -> bool:
    """Return whether a value of JSON is an integer of more than 64 bits, or holds one."""
    if isinstance(value, list | dict):
        return any(map(_is_large, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _parquet(path: Path, header: Sequence[str]) -> pa.Table:
    table = parquet.ParquetFile(path).read()
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, table.schema.metadata))


READERS: dict[str, Reader] = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet}
"""Readers by suffix of the file's name; tasks add readers for the files of their benchmarks."""


def read_parallel(path: Path, origin: str, languages: Sequence[str]) -> pa.Table:
    """Read a parallel corpus into a table; text files become a column for each language.

    Args:
        path: a csv, tsv, jsonl or parquet file, or the common part of the names of two text files: `train` for
            `train.en` and `train.de`, each with or without `.gz`.
        origin: name of the data in messages.
        languages: both languages.

    Raises:
        UserError: a file is missing or invalid, or the two have different numbers of lines.
    """
    if suffix_of(path) in READERS:
        return read_table(path, origin)
    columns = {language: pa.array(_lines(path, origin, language)) for language in languages}
    counts = {language: len(column) for language, column in columns.items()}
    if len(set(counts.values())) > 1:
        found = " and ".join(f"{count:,} in {language}" for language, count in counts.items())
        raise UserError(
            f"{origin}: {found}: the two files must have the same number of lines: fetch them again"
        )
    return pa.table(columns)


def sentences(rows: Rows, language: str) -> list[str]:
    """Return the sentences of a language, from the column `translation` (as on the hub) or the column of its name."""
    if rows.has("translation"):
        return rows.converted(
            "translation", lambda pair: rows.text(pair[language]), f"a sentence in {language!r}"
        )
    return rows.texts(language)


def _lines(path: Path, origin: str, language: str) -> list[str]:
    plain = path.with_name(f"{path.name}.{language}")
    files = [plain, plain.with_name(plain.name + COMPRESSED)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(
            f"{origin}: no file {plain.name} or {plain.name}{COMPRESSED}: give the common part of the names of "
            "the two files, without the language"
        )
    try:
        return lines_of(file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{origin}: {file.name} is not a text file: {first_line(error)}") from error
