"""The parts of a report for a suite: its title, and published results to compare with."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from dsprune.commands.suite.definition import Published, Suite, published_results
from dsprune.report.page import Section
from dsprune.report.runs import find_folders
from dsprune.report.table import Table, table_of
from dsprune.utils.files import replace_text
from dsprune.utils.records import Record, read_record
from dsprune.utils.text import MISSING

__all__ = ["published_sections", "published_tables", "title_of", "write_about"]

FILE = "suite.json"
"""File in a suite's folder that holds its title and the names of the published results to compare with."""


class About(Record):
    """The content of this file."""

    title: str
    published: tuple[Published, ...]


def write_about(suite: Suite, folder: Path) -> None:
    """Write the title and the published results of a suite into its folder, for reports."""
    about = About(title=suite.title, published=suite.published)
    replace_text(folder / FILE, about.model_dump_json(indent=2) + "\n")


def published_sections(paths: Sequence[Path]) -> Iterator[Section]:
    """Yield the section of the results that belong to the suites in some folders, if there are any."""
    names = [name for folder in find_folders(paths, FILE) for name in _read_about(folder).published]
    if names:
        yield Section("Published", tuple(published_tables(names)))


def title_of(paths: Sequence[Path]) -> str | None:
    """Return the title of the suite, if the paths have exactly one."""
    folders = find_folders(paths, FILE)
    return _read_about(folders[0]).title if len(folders) == 1 else None


def _read_about(folder: Path) -> About:
    return read_record(folder / FILE, About, "the title of a suite", "run the suite again, or remove it")


def published_tables(names: Sequence[str]) -> Iterator[Table]:
    """Yield a table per source, with a row per task and method, and a column per sparsity."""
    for name in dict.fromkeys(names):
        source = published_results()[name]
        sparsities = sorted({sparsity for row in source["rows"] for sparsity in row["values"]})
        columns: dict[str, Callable[[Any], str]] = {key: itemgetter(key) for key in ("task", "method")}
        columns |= {
            f"{100 * sparsity:g} %" if sparsity else "dense": partial(_score, sparsity)
            for sparsity in sparsities
        }
        note = (
            f"Published, not measured here. {source['model']}; {source['metric']}. Sparsity of "
            f"{source['convention']}. Source: {source['source']}; read {source['read']}."
        )
        yield table_of(f"published-{name}", f"Published: {name}", source["rows"], columns, note=note)


def _score(sparsity: float, row: dict[str, Any]) -> str:
    score = row["values"].get(sparsity)
    return MISSING if score is None else f"{score:g}"
