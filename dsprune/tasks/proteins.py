"""Thermostability of proteins, from their amino acids: each is one token for a model such as ESM."""

from collections.abc import Callable, Mapping
from functools import partial

from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.regression import Regression
from dsprune.tasks.source import Benchmark, Part
from dsprune.tasks.task import Task
from dsprune.tasks.text_classification import TextClassification

__all__ = ["PROTEINS"]


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
    return Regression(settings, text="sequence", benchmark=benchmark)


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
