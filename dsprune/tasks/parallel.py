"""Parallel corpora: two files whose lines are translations of each other, or a table with both languages."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dsprune.errors import UserError
from dsprune.tasks.files import READERS, lines_of, read_table, suffix_of
from dsprune.tasks.rows import Rows
from dsprune.utils.text import first_line

__all__ = ["read_parallel", "sentences"]

COMPRESSED = ".gz"


def read_parallel(path: Path, origin: str, languages: Sequence[str]) -> pa.Table:
    """A table with a column for each language.

    Args:
        path: a csv, tsv, jsonl or parquet file, or what the two text files have in common: of `train`, they
            are `train.en` and `train.de`, each with or without `.gz`.
        origin: what messages call it.
        languages: both of them.

    Raises:
        UserError: there is no such file, or the two differ in their number of lines.
    """
    if suffix_of(path) in READERS:
        return read_table(path, origin)
    columns = {language: pa.array(_lines(path, origin, language)) for language in languages}
    counts = {language: len(column) for language, column in columns.items()}
    if len(set(counts.values())) > 1:
        found = " and ".join(f"{count:,} in {language}" for language, count in counts.items())
        raise UserError(f"{origin}: {found}: its two files need as many lines each: fetch them again")
    return pa.table(columns)


def _lines(path: Path, origin: str, language: str) -> list[str]:
    plain = path.with_name(f"{path.name}.{language}")
    files = [plain, plain.with_name(plain.name + COMPRESSED)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(
            f"{origin}: no file {plain.name} or {plain.name}{COMPRESSED}: give what the names of the two files "
            "have in common, without the language"
        )
    try:
        return lines_of(file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{origin}: {file.name} is no text file: {first_line(error)}") from error


def sentences(rows: Rows, language: str) -> list[str]:
    """The sentences of a language: of the column of that name, or of `translation`, as the hub has them."""
    if rows.has("translation"):
        return rows.converted("translation", lambda pair: str(pair[language]), f"a sentence in {language!r}")
    return rows.texts(language)
