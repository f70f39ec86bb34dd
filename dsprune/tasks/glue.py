"""The GLUE tasks: their columns, labels, metrics and files (Wang et al., ICLR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.regression import Regression
from dsprune.tasks.source import Benchmark, HubData, Part
from dsprune.tasks.task import Task
from dsprune.tasks.text_classification import TextClassification

__all__ = ["GLUE", "GlueTask"]

HUB_NAME = "nyu-mll/glue"

SENTENCES = ("sentence1", "sentence2")

ENTAILMENT = ("entailment", "not_entailment")

NLI = ("entailment", "neutral", "contradiction")

MNLI_COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE: calling it returns the `Task`.

    Attributes:
        folder: its subfolder in the folder of GLUE's download script.
        examples: number of training and of validation examples.
        texts: columns of the text or of both texts.
        labels: names of the labels, in the hub's order; empty = the label is a number.
        config: its name on the hub.
        metrics: metrics of a classification, the headline first.
        validation: name of the validation split on the hub.
        file: the file of the validation split.
        rename: the files' name of a column, for each differing name in dsprune.
        header: columns of files without a header.
    """

    folder: str
    examples: tuple[int, int]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    config: str
    metrics: tuple[str, ...] = ("accuracy",)
    validation: str = "validation"
    file: str = "dev.tsv"
    rename: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()

    def __call__(self, settings: TaskSettings) -> Task:
        """Return the task. The data come from the hub, unless the settings name other data."""
        pair = self.texts[1] if len(self.texts) == 2 else None
        if not self.labels:
            return Regression(settings, text=self.texts[0], text_pair=pair, benchmark=self._benchmark())
        return TextClassification(
            settings,
            text=self.texts[0],
            text_pair=pair,
            known_labels=self.labels,
            metrics=self.metrics,
            benchmark=self._benchmark(),
        )

    def _benchmark(self) -> Benchmark:
        train, validation = self.examples
        needed = (*self.texts, "label")
        return Benchmark(
            title=f"GLUE, {self.folder}",
            source="https://gluebenchmark.com/tasks, the folder that its download script makes",
            licence="that of each data set, see the source; GLUE itself adds none",
            parts={
                "train": Part(f"{self.folder}/train.tsv", train, self.header, self.rename, needed=needed),
                "validation": Part(
                    f"{self.folder}/{self.file}", validation, self.header, self.rename, needed=needed
                ),
            },
            hub=HubData(HUB_NAME, self.config, self.validation),
        )


def _mnli(which: str) -> GlueTask:
    return GlueTask(
        "MNLI",
        (392_702, 9_815 if which == "matched" else 9_832),
        ("premise", "hypothesis"),
        NLI,
        "mnli",
        validation=f"validation_{which}",
        file=f"dev_{which}.tsv",
        rename=MNLI_COLUMNS,
    )


GLUE: Mapping[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA",
        (8_551, 1_043),
        ("sentence",),
        ("unacceptable", "acceptable"),
        "cola",
        ("matthews", "accuracy"),
        header=("source", "label", "note", "sentence"),
    ),
    "mnli": _mnli("matched"),
    "mnli-mm": _mnli("mismatched"),
    "mrpc": GlueTask(
        "MRPC",
        (3_668, 408),
        SENTENCES,
        ("not_equivalent", "equivalent"),
        "mrpc",
        ("f1", "accuracy"),
        rename={"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    ),
    "qnli": GlueTask("QNLI", (104_743, 5_463), ("question", "sentence"), ENTAILMENT, "qnli"),
    "qqp": GlueTask(
        "QQP",
        (363_846, 40_430),
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        "qqp",
        ("f1", "accuracy"),
        rename={"label": "is_duplicate"},
    ),
    "rte": GlueTask("RTE", (2_490, 277), SENTENCES, ENTAILMENT, "rte"),
    "sst2": GlueTask("SST-2", (67_349, 872), ("sentence",), ("negative", "positive"), "sst2"),
    "stsb": GlueTask("STS-B", (5_749, 1_500), SENTENCES, (), "stsb", rename={"label": "score"}),
    "wnli": GlueTask("WNLI", (635, 71), SENTENCES, ("not_entailment", "entailment"), "wnli"),
}
