"""A teacher, a student and a recipe, all tiny."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from dsprune.testing.tiny import NOUNS, tiny_bert, tiny_sentiment

LABELS = dict(enumerate(sorted(NOUNS)))


def write_distilled(folder: Path, num_train: int = 30, **sections: Any) -> Path:
    """Write folders `student`, `teacher` and `data`, and a recipe, which is returned: 10 steps of 12 examples.

    The task has eight classes, the first noun. The teacher's weights are random but large, so that its outputs are
    confident.
    """
    names = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
    tiny_bert(folder / "student", seed=1, **names)
    tiny_bert(folder / "teacher", seed=2, initializer_range=0.3, **names)
    data = tiny_sentiment(folder / "data", num_train, 8)
    for split in ("train", "validation"):
        rewrite(
            data / f"{split}.csv", [(text, text.split()[1]) for text, _ in examples(data / f"{split}.csv")]
        )
    recipe = {
        "model": {"path": str(folder / "student")},
        "task": {
            "name": "text-classification",
            "train": str(data / "train.csv"),
            "validation": str(data / "validation.csv"),
            "max_length": 24,
        },
        "budget": {"steps": 10, "batch": 12},
        "learning_rate": {"peak": 3e-3},
        "distillation": {"teacher": str(folder / "teacher"), "hardness": 0.75, "temperature": 2.0},
        "tracking": {"log_every": 1, "eval_every": "100 %"},
        "output": str(folder / "runs"),
    }
    path = folder / "distilled.yaml"
    path.write_text(yaml.safe_dump(recipe | sections))
    return path


def examples(path: Path) -> list[tuple[str, str]]:
    """Text and label of each example of a file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def rewrite(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A file of these examples."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def losses(run: Path) -> list[float]:
    """The loss of every step of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
