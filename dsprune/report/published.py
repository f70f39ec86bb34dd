"""Published results beside one's own, each with its source and the convention of its sparsity."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dsprune.report.page import Section
from dsprune.report.runs import find_folders
from dsprune.report.table import MISSING, Table

__all__ = ["SUITE", "published_sections", "published_tables", "title_of"]

SUITE = "suite.json"
"""File in a suite's folder that holds its title and the names of the published results to compare with."""


def published_sections(paths: Sequence[Path]) -> Iterator[Section]:
    """Yield the section of the results that belong to the suites in some folders, if there are any."""
    names = [name for folder in find_folders(paths, SUITE) for name in _read_suite(folder)["published"]]
    if names:
        yield Section("Published", tuple(published_tables(names)))


def title_of(paths: Sequence[Path]) -> str | None:
    """Return the title of the suite, if the paths hold exactly one."""
    folders = find_folders(paths, SUITE)
    return str(_read_suite(folders[0])["title"]) if len(folders) == 1 else None


def published_tables(names: Sequence[str]) -> Iterator[Table]:
    """Yield a table per source: a row per task and method, a column per sparsity."""
    for name in dict.fromkeys(names):
        results = _published()[name]
        sparsities = sorted({sparsity for row in results["rows"] for sparsity in row["values"]})
        rows = tuple(
            (row["task"], row["method"], *(_cell(row["values"].get(sparsity)) for sparsity in sparsities))
            for row in results["rows"]
        )
        heads = ("dense" if sparsity == 0 else f"{100 * sparsity:g} %" for sparsity in sparsities)
        note = (
            f"Published, not measured here. {results['model']}; {results['metric']}. Sparsity of "
            f"{results['convention']}. Source: {results['source']}; read {results['read']}."
        )
        yield Table(f"published-{name}", f"Published: {name}", ("task", "method", *heads), rows, note)


def _cell(value: float | None) -> str:
    return MISSING if value is None else f"{value:g}"


@cache
def _published() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (files("dsprune") / "suites" / "published.yaml").read_text(encoding="utf-8")
    )
    return content


def _read_suite(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / SUITE).read_text(encoding="utf-8"))
    return content
