"""The generated pages of the documentation, and the list of all pages."""

import copy
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from dsprune.commands.cli import app
from dsprune.commands.data import kinds_of_tasks
from dsprune.recipe import Recipe
from dsprune.recipe.comments import section_of
from dsprune.recipe.loading import check_recipe, override
from dsprune.registry import TASKS
from tests.scripts import SCRIPTS, load

ROOT = SCRIPTS.parent
DOCS = load("docs")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """All pages by their path."""
    written = {
        path.name: DOCS.relink(path.read_text(encoding="utf-8")) for path in (ROOT / "docs").glob("*.md")
    }
    return written | {path: page() for path, page in DOCS.PAGES.items()}


def fields(section: type[BaseModel]) -> Iterator[str]:
    for name in section.model_fields:
        yield name
        if (inner := section_of(section, name)) is not None:
            yield from fields(inner)


def rows_of(page: str) -> Iterator[list[str]]:
    """The cells of the tables of a page, with its heading before them."""
    heading = ""
    for line in page.splitlines():
        heading = line if line.startswith("#") else heading
        if line.startswith("| `"):
            yield [heading, *line.strip("| ").split(" | ")]


def test_the_reference_has_every_field_of_a_recipe(pages: dict[str, str]) -> None:
    rows = list(rows_of(pages["reference/recipe.md"]))
    assert set(fields(Recipe)) == {name.strip("`") for _, name, *_ in rows}
    assert not [row[1] for row in rows if len(row) != 6 or not all(row)], (
        "add them to EXAMPLES in scripts/docs.py"
    )
    assert "| `cubic`" in pages["reference/recipe.md"] or "one of `cubic`, " in pages["reference/recipe.md"]


SMALLEST = {
    "model": {"path": "model"},
    "task": {"name": "sst2"},
    "budget": {"batch": 32},
    "pruning": {"sparsity": 0.9},
    "distillation": {"teacher": "teacher"},
    "name": "smallest",
}


BESIDE = {
    "task.config": {"task": {"name": "sst2", "dataset": "d"}},
    "learning_rate.decay_factor": {"learning_rate": {"decay_every": "1 epochs"}},
}
"""The fields without which another field has no meaning."""


def test_every_example_of_the_reference_is_a_value_of_its_field(pages: dict[str, str]) -> None:
    for heading, name, *_, example in rows_of(pages["reference/recipe.md"]):
        section = heading.removeprefix("## ").strip("`")
        if not example.startswith("[below]") and not section.startswith("A number"):
            key = name.strip("`") if section == "Top level" else f"{section}.{name.strip('`')}"
            values = copy.deepcopy(SMALLEST | BESIDE.get(key, {}))
            override(values, f"{key}={example.strip('`')}")
            check_recipe(values)


def test_the_reference_tells_which_fields_a_task_needs(pages: dict[str, str]) -> None:
    text = pages["reference/recipe.md"]
    assert "| [`translation`](tasks.md#translation) | `train`, `validation`, `pairs` |" in text


def test_the_reference_has_every_command_with_its_options(pages: dict[str, str]) -> None:
    text = pages["reference/commands.md"]
    group: Any = typer.main.get_group(app)
    assert not [name for name in group.commands if f"## `dsprune {name}`" not in text]
    assert "## `dsprune recipes show`" in text
    assert "`--stop-after <str>`" in text
    assert "None" not in text.split("\n## ")[1]


def test_the_reference_has_every_task(pages: dict[str, str]) -> None:
    text = pages["reference/tasks.md"]
    assert not [name for name in kinds_of_tasks() if f"## `{name}`" not in text]
    assert not [name for name in TASKS if f"`{name}`" not in text]


def named(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from named(part)


def test_every_page_is_in_the_navigation_once(pages: dict[str, str]) -> None:
    assert sorted(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == sorted(pages)


def test_every_link_leads_to_a_page_or_a_picture(pages: dict[str, str]) -> None:
    pictures = {path.name for path in (ROOT / "docs").glob("*.svg")}
    for path, text in pages.items():
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            assert "://" in link or place in pages or place in pictures or link.startswith("data:"), (
                f"{path}: {link}"
            )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see [`docs/a.md`](docs/a.md)", "see [`docs/a.md`](a.md)"),
        ("see [the law](../dsprune/schedule/law.py)", "see the law"),
        (
            "see [b](b.md#part), [c](#part), [d](https://e.org/f)",
            "see [b](b.md#part), [c](#part), [d](https://e.org/f)",
        ),
        ("![picture](docs/timetable.svg)", "![picture](timetable.svg)"),
        ("[changes](CHANGELOG.md)", "[changes](changelog.md)"),
    ],
)
def test_links_are_set_right(text: str, shown: str) -> None:
    assert DOCS.relink(text) == shown


def test_the_pages_of_the_readme_are_whole(pages: dict[str, str]) -> None:
    assert pages["start.md"].count("```") % 2 == 0
    assert "dsprune new reviews" in pages["start.md"]
    assert pages["index.md"].lstrip().startswith("# dsprune")
    assert Path(ROOT / "README.md").read_text().count("\n## ") >= 8
