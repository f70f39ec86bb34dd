"""Parallel corpora: two text files whose lines are translations of each other, or a table with both languages."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dsprune.errors import UserError
from dsprune.tasks.data_files import READERS, read_table, suffix_of
from dsprune.tasks.rows import Rows
from dsprune.tasks.text_files import lines_of
from dsprune.utils.text import first_line

__all__ = ["read_parallel", "sentences"]

COMPRESSED = ".gz"


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
    """Return the sentences of a language, from the column `translation` (as on the hub) or that of its name."""
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
