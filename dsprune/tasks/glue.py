"""The GLUE tasks: their columns, labels and metrics (Wang et al., ICLR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass

from dsprune.tasks.source import HubData
from dsprune.tasks.task import TaskSettings
from dsprune.tasks.text_classification import TextClassification

__all__ = ["GLUE", "GlueTask"]

HUB_NAME = "nyu-mll/glue"
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class GlueTask:
    """One row of the table below. Labels are in the hub's order; the first metric is the headline."""

    config: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    validation: str = "validation"

    def __call__(self, settings: TaskSettings) -> TextClassification:
        """The task; data that the settings do not name come from the hub."""
        return TextClassification(
            settings,
            text=self.texts[0],
            text_pair=self.texts[1] if len(self.texts) == 2 else None,
            known_labels=self.labels,
            metrics=self.metrics,
            hub=HubData(HUB_NAME, self.config, self.validation),
        )


GLUE: Mapping[str, GlueTask] = {
    "cola": GlueTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
    "mnli": GlueTask("mnli", ("premise", "hypothesis"), NLI, validation="validation_matched"),
    "mnli-mm": GlueTask("mnli", ("premise", "hypothesis"), NLI, validation="validation_mismatched"),
    "mrpc": GlueTask(
        "mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")
    ),
    "qnli": GlueTask("qnli", ("question", "sentence"), ENTAILMENT),
    "qqp": GlueTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    "rte": GlueTask("rte", ("sentence1", "sentence2"), ENTAILMENT),
    "sst2": GlueTask("sst2", ("sentence",), ("negative", "positive")),
}
