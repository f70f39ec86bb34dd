"""A page: its parts, and the files of its formats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, Template
from markupsafe import Markup

from dsprune.report.drawing import CSS, with_variables
from dsprune.report.table import Table, markdown_text
from dsprune.utils.files import replace_text
from dsprune.utils.text import shareable

__all__ = [
    "Block", "Cell", "Code", "HeatMap", "Page", "Picture", "Section", "Text", "write_page", "write_report",
]  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        svg: the `<svg>` element.
        caption: description of the figure.
        origin: command, seeds and versions of its runs.
        legend: colour of each label.
        title: heading, or "".
    """

    svg: Markup
    caption: str
    origin: str
    legend: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


class Cell(NamedTuple):
    """A cell of a heat map: its heat from 0 to 1, its text, and a longer text for a pointer at rest."""

    heat: float
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    """Cells by row and column; a place without a cell is blank. Caption and origin are those of a `Picture`."""

    cells: Mapping[tuple[str, str], Cell]
    caption: str
    origin: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is `note`, `good` or `bad`."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Code:
    """A file or a command, verbatim; `opened` shows it at once."""

    title: str
    text: str
    opened: bool = False


Block = Picture | HeatMap | Table | Text | Code


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: its heading.
        lead: one sentence on its subject.
        facts: the most important numbers by their label.
        sections: the other content.
        origin: command, seeds and versions of its runs.
        state: a word next to the heading, or "".
    """

    title: str
    lead: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
    origin: str
    state: str = ""

    def tables(self) -> Iterator[Table]:
        """Yield the tables in their order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Table))


def write_page(page: Page, folder: Path) -> Path:
    """Write the page as report.html, which needs no other file and no network, and return its path.

    It may be shared, so absolute paths are cut to their last part.
    """
    path = folder / "report.html"
    replace_text(path, shareable(_template().render(page=page, css=Markup(CSS))))
    return path


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["with_variables"] = with_variables
    return environment.from_string((files("dsprune.report") / "page.html").read_text(encoding="utf-8"))


def write_report(page: Page, folder: Path) -> list[Path]:
    """Write the page, all its tables as report.md and each as a CSV file, and return the paths."""
    tables = list(page.tables())
    head = [f"# {markdown_text(page.title)}", "", markdown_text(page.lead), ""]
    text = "\n".join([*head, *(table.markdown() for table in tables)])
    texts = {folder / "report.md": f"{text}\n{markdown_text(page.origin)}\n"}
    texts |= {folder / f"{table.name}.csv": table.csv() for table in tables}
    for path, content in texts.items():
        replace_text(path, shareable(content))
    return [write_page(page, folder), *texts]
