"""Split a file of examples into one to train on and one to validate on."""

import random
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from dsprune.tasks.labels import name_of

__all__ = ["hold_out", "write_table"]

SHARE = 10
"""One row of so many is held out."""

SEED = 42


def hold_out(table: pa.Table, label: str | None) -> tuple[pa.Table, pa.Table]:
    """Return the rows to train on and those to validate on: a tenth, drawn at random.

    Equal rows stay together, so that no example is in both, and every label that has two different rows is in both.

    Args:
        table: all rows.
        label: column of the labels, which are drawn from separately; None = none.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(table.to_pylist()):
        places[repr(row)].append(place)
    labels = ["" if label is None else name_of(value) for value in table[label or 0].to_pylist()]
    groups: dict[str, list[list[int]]] = defaultdict(list)
    for equal in places.values():
        groups["" if label is None else labels[equal[0]]].append(equal)
    draw, held = random.Random(SEED), set[int]()
    for several in groups.values():
        chosen = draw.sample(several, max(min(1, len(several) - 1), len(several) // SHARE))
        held.update(place for equal in chosen for place in equal)
    kept = [place for place in range(table.num_rows) if place not in held]
    return table.take(pa.array(kept, pa.int64())), table.take(pa.array(sorted(held), pa.int64()))


def write_table(table: pa.Table, path: Path) -> None:
    """Write rows as parquet, or as lines of a text file."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in table["text"].to_pylist()), encoding="utf-8")
    else:
        parquet.write_table(table, path)
