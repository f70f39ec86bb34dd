"""Lay out the data of the recovery study: `python scripts/results/recovery/split.py`.

Choices are made on a validation split, and the tables show the test split. The movie reviews' validation split is every
tenth training sentence, and their test split is the demo's validation data. BANKING77's splits are the even and the odd
rows of its test data, which are sorted by intent, so each split has 20 questions of each intent. CLINC150 has three
splits of its own; its questions outside of all intents are left out. TREC's validation split is every tenth training
question. A task whose files are not there is left out.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HOME = Path("data/recovery")
REVIEWS = Path("data/sentiment")
BANKING = Path("data/benchmarks/banking77")
CLINC = Path("data/benchmarks/clinc150/data_full.json")
TREC = Path("data/benchmarks/trec")
TYPES = ("description", "entity", "abbreviation", "human", "location", "number")
"""The classes of TREC's files, which have their numbers."""


def select(source: Path, target: Path, wanted: Callable[[int], bool]) -> None:
    """Copy the header and the rows whose number is wanted."""
    with source.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    write(target, head, (row for number, row in enumerate(rows) if wanted(number)))


def write(target: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a csv file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def trec(name: str) -> list[tuple[str, str]]:
    """Return the questions of a file of TREC, and their types."""
    lines = (TREC / name).read_text(encoding="latin-1").splitlines()
    numbers_and_texts = (line.split(" ", 1) for line in lines if line.strip())
    return [(text, TYPES[int(number)]) for number, text in numbers_and_texts]


def main() -> None:
    """Write the parts of all tasks."""
    reviews, banking = HOME / "movie-reviews", HOME / "banking77"
    select(REVIEWS / "train.csv", reviews / "train.csv", lambda number: number % 10 != 0)
    select(REVIEWS / "train.csv", reviews / "validation.csv", lambda number: number % 10 == 0)
    select(REVIEWS / "validation.csv", reviews / "test.csv", lambda _: True)
    select(BANKING / "train.csv", banking / "train.csv", lambda _: True)
    select(BANKING / "test.csv", banking / "validation.csv", lambda number: number % 2 == 0)
    select(BANKING / "test.csv", banking / "test.csv", lambda number: number % 2 == 1)
    if CLINC.is_file():
        parts = json.loads(CLINC.read_text(encoding="utf-8"))
        for name, part in {"train": "train", "validation": "val", "test": "test"}.items():
            write(HOME / "clinc150" / f"{name}.csv", ("text", "intent"), parts[part])
    if TREC.is_dir():
        questions, head = trec("TREC.train.all"), ("text", "type")
        write(HOME / "trec" / "train.csv", head, (row for number, row in enumerate(questions) if number % 10))
        write(HOME / "trec" / "validation.csv", head, questions[::10])
        write(HOME / "trec" / "test.csv", head, trec("TREC.test.all"))


if __name__ == "__main__":
    main()
