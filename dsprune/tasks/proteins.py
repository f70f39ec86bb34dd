"""Thermostability of proteins, from their amino acids; each is one token for a model such as ESM."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from datasets import Dataset

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.regression import Regression
from dsprune.tasks.source import Benchmark, Part, Split
from dsprune.tasks.task import Task
from dsprune.tasks.text_classification import TextClassification

__all__ = ["PROTEINS"]


@dataclass(frozen=True)
class Thermostability(Regression):
    """The melting temperature of a protein."""

    uses = (*Regression.uses, "thresholds")


@dataclass(frozen=True)
class ThermostabilityClass(TextClassification):
    """The class of a protein's melting temperature, between two bounds of `task.thresholds`."""

    uses = (*TextClassification.uses, "thresholds")

    def load(self, split: Split) -> Dataset:
        """Read the sequences and the class of each temperature; a bound belongs to the class above it."""
        rows = self.rows(split)
        degrees = rows.numbers(self.label_column, "task.label")
        classes = [bisect_right(self.settings.thresholds, number) for number in degrees]
        if split == "train" and len(set(classes)) == 1:
            raise UserError(
                f"task.thresholds: value {self.settings.thresholds}: all rows of {rows.origin} are "
                f"{self.labels[classes[0]]}: choose others"
            )
        return Dataset.from_dict({**self.texts(rows), "labels": classes})


def _class_names(thresholds: tuple[float, ...]) -> tuple[str, ...]:
    """Return names such as `below 45 C`, `45 to 75 C`, `from 75 C`."""
    between = (f"{low:g} to {high:g} C" for low, high in pairwise(thresholds))
    return f"below {thresholds[0]:g} C", *between, f"from {thresholds[-1]:g} C"


def _meltome(settings: TaskSettings) -> Task:
    # One file holds all splits; the sequences for early stopping are among those for training.
    file, names = "mixed_split.csv", {"label": "target"}
    benchmark = Benchmark(
        title="Meltome Atlas, mixed split of FLIP",
        source="https://github.com/J-SNACKKB/FLIP, splits/meltome/splits.zip",
        licence="AFL-3.0 (the split); the original data are free to use, with acknowledgement",
        parts={
            "train": Part(file, rename=names, where={"set": "train"}),
            "validation": Part(file, rename=names, where={"set": "test"}),
        },
        note="SMC-Bench names the Meltome Atlas and publishes no split of it: this one is FLIP's.",
    )
    if settings.thresholds:
        classes = _class_names(settings.thresholds)
        return ThermostabilityClass(
            settings, text="sequence", known_labels=classes, metrics=("accuracy",), benchmark=benchmark
        )
    return Thermostability(settings, text="sequence", benchmark=benchmark)


def _hot_protein(classes: tuple[str, ...], settings: TaskSettings) -> Task:
    benchmark = Benchmark(
        title=f"HotProtein, {len(classes)} classes",
        source="https://github.com/VITA-Group/HotProtein",
        licence="MIT (the repository)",
        parts={"train": Part("train.csv"), "validation": Part("test.csv")},
        note=(
            "Its splits are pickles beside FASTA files, and pickles can hold code: write each split as a csv file "
            "with the columns sequence and label."
        ),
    )
    return TextClassification(
        settings, text="sequence", known_labels=classes, metrics=("accuracy",), benchmark=benchmark
    )


PROTEINS: Mapping[str, Callable[[TaskSettings], Task]] = {
    "meltome": _meltome,
    "hotprotein-2": partial(_hot_protein, ("cold", "hot")),
    "hotprotein-5": partial(
        _hot_protein, ("cryophilic", "psychrophilic", "mesophilic", "thermophilic", "hyperthermophilic")
    ),
}
