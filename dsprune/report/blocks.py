"""What a page is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

from dsprune.report.table import Table

__all__ = ["Block", "Cell", "Code", "Fact", "HeatMap", "Key", "Page", "Picture", "Section", "Text"]


@dataclass(frozen=True)
class Fact:
    """A number that is seen at first sight, and what it is."""

    value: str
    label: str


@dataclass(frozen=True)
class Key:
    """An entry of a picture's legend: the page's colour variable, and what is drawn in it."""

    colour: str
    label: str


@dataclass(frozen=True)
class Picture:
    """A drawing, what one sees in it, its legend, what made it, and a heading."""

    svg: str
    caption: str
    legend: tuple[Key, ...] = ()
    origin: str = ""
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """A field of a heat map: how hot it is, 0 to 1, and what is written in it."""

    heat: float
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    """Values over two axes, None where there is no such field; what one sees, and what made it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    origin: str = ""


@dataclass(frozen=True)
class Text:
    """A sentence or two; `kind` is `note`, `good` or `bad`."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Code:
    """A file or a command as it stands; `opened` shows it at once."""

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
    """All of a report.

    Attributes:
        title: its heading.
        state: a word beside the heading, or "".
        lead: what it is about, in a sentence.
        facts: the numbers to see first.
        sections: the rest.
        origin: what made the page.
    """

    title: str
    state: str
    lead: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    origin: str

    def tables(self) -> Iterator[Table]:
        """The tables, in their order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Table))
