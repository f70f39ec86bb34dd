"""Lay out the data of the recovery study: `python scripts/results/recovery/split.py`.

Choices are made on a validation split, and the tables show the test split. The movie reviews' validation split is every
tenth training sentence, and their test split is the demo's validation data. BANKING77's splits are the even and the odd
rows of its test data, which are sorted by intent, so each split has 20 questions of each intent.
"""

import csv
from collections.abc import Callable
from pathlib import Path

HOME = Path("data/recovery")
REVIEWS = Path("data/sentiment")
BANKING = Path("data/benchmarks/banking77")


def select(source: Path, target: Path, wanted: Callable[[int], bool]) -> None:
    """Copy the header and the rows whose number is wanted."""
    with source.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *(row for number, row in enumerate(rows) if wanted(number))])


def main() -> None:
    """Write the parts of both tasks."""
    reviews, banking = HOME / "movie-reviews", HOME / "banking77"
    select(REVIEWS / "train.csv", reviews / "train.csv", lambda number: number % 10 != 0)
    select(REVIEWS / "train.csv", reviews / "validation.csv", lambda number: number % 10 == 0)
    select(REVIEWS / "validation.csv", reviews / "test.csv", lambda _: True)
    select(BANKING / "train.csv", banking / "train.csv", lambda _: True)
    select(BANKING / "test.csv", banking / "validation.csv", lambda number: number % 2 == 0)
    select(BANKING / "test.csv", banking / "test.csv", lambda number: number % 2 == 1)


if __name__ == "__main__":
    main()
