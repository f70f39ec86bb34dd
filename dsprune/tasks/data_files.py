"""Data files, each read into one table: csv, tsv, jsonl and parquet."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, json, parquet

from dsprune.errors import UserError
from dsprune.utils.text import first_line

__all__ = ["READERS", "Reader", "lines_of", "read_table", "suffix_of"]

Reader = Callable[[Path, Sequence[str]], pa.Table]
"""Reads a file; the second argument names the columns of a file without a header."""

BLOCK_BYTES = 2**26
"""The longest line of a jsonl file: a line may hold a document."""


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
        UserError: there is no such file, or it cannot be read.
    """
    readers = READERS if readers is None else readers
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if suffix_of(file) in readers)
        if not files:
            raise UserError(f"{origin}: holds no {', '.join(readers)} file: give another folder")
        return pa.concat_tables([_read(file, str(file), readers, header) for file in files])
    return _read(path, origin, readers, header)


def _read(path: Path, origin: str, readers: Mapping[str, Reader], header: Sequence[str]) -> pa.Table:
    suffix = suffix_of(path)
    if suffix not in readers:
        raise UserError(f"{origin}: unknown kind of file {suffix!r}: use one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{origin}: no such file: give the path of an existing one")
    try:
        return readers[suffix](path, header)
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{origin}: not a valid {suffix[1:]} file: {first_line(error)}") from error


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file, without a final `.gz`."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file, without line ends; the file may be compressed with gzip.

    Lines end with a line feed only: other characters that Unicode calls line ends are part of the text.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = raw.decode("utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _separated(path: Path, options: csv.ParseOptions, header: Sequence[str]) -> pa.Table:
    reading = csv.ReadOptions(column_names=list(header) or None)
    with csv.open_csv(path, read_options=reading, parse_options=options) as reader:
        names = reader.schema.names
    # All as text: if types were inferred from the values, labels such as "01" and "true" would change.
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return csv.read_csv(path, read_options=reading, parse_options=options, convert_options=as_text)


def _csv(path: Path, header: Sequence[str]) -> pa.Table:
    return _separated(path, csv.ParseOptions(newlines_in_values=True), header)


def _tsv(path: Path, header: Sequence[str]) -> pa.Table:
    # Quotation marks have no meaning in these files: GLUE's contain unpaired ones.
    return _separated(path, csv.ParseOptions(delimiter="\t", quote_char=False), header)


def _jsonl(path: Path, header: Sequence[str]) -> pa.Table:
    return json.read_json(path, read_options=json.ReadOptions(block_size=BLOCK_BYTES))


def _parquet(path: Path, header: Sequence[str]) -> pa.Table:
    return parquet.read_table(path)


READERS: Mapping[str, Reader] = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet}
"""By suffix of the file's name; tasks add readers for the files of their benchmarks."""
