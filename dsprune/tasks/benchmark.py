"""Where the data of a benchmark come from: the files that its authors publish, and its name on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Benchmark", "HubData", "Part", "Split"]

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
        examples: number of examples; None = not known for certain.
        header: names of the columns, for a file without a header.
        rename: the file's name of a column, for each of dsprune's names that differs.
        where: value that a row must have in each of these columns, for a file that holds several splits.
    """

    path: str
    examples: int | None = None
    header: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Attributes:
        title: its name.
        source: where its authors publish it.
        licence: its terms, as far as the authors state them.
        parts: its splits in that publication.
        hub: the same data on the hub; None = not there in a form that is data alone, without code.
        note: what else to know before a first run.
    """

    title: str
    source: str
    licence: str
    parts: Mapping[Split, Part]
    hub: HubData | None = None
    note: str = ""
