"""Where a benchmark's data come from: its files as the authors publish them, and its name on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Benchmark", "HubData", "Part", "Split"]

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and what its validation split is called."""

    name: str
    config: str | None = None
    validation: str = "validation"


@dataclass(frozen=True)
class Part:
    """A split in the folder that the authors publish.

    Attributes:
        path: file, or folder of files, under that folder.
        examples: how many there are; None = not known for certain.
        header: names of the columns, of a file that has no header.
        rename: the file's name of a column, for each of our names that differs.
        where: values that a row must have in some columns, where one file holds several splits.
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
        title: what it is called.
        source: where its authors publish it.
        licence: under which terms, as far as they say.
        parts: the splits in that publication.
        hub: the same on the hub; None = it is not there in a form that is data alone.
        note: what else one must know before a first run.
    """

    title: str
    source: str
    licence: str
    parts: Mapping[Split, Part]
    hub: HubData | None = None
    note: str = ""
