"""Classification of one text or of a pair of texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.pretrained import load_config
from dsprune.tasks.labels import check_same_labels, describe_labels, find_labels, labels_of, number_labels
from dsprune.tasks.rows import Column
from dsprune.tasks.source import Split
from dsprune.tasks.texts import TextTask

__all__ = ["TextClassification"]


def _metrics() -> ModuleType:
    """Import torchmetrics, which loads matplotlib, at the first score."""
    import torchmetrics.functional.classification as metrics

    return metrics


METRICS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "accuracy": lambda predicted, labels, num: _metrics().multiclass_accuracy(
        predicted, labels, num, "micro"
    ),
    "f1": lambda predicted, labels, num: _metrics().binary_f1_score(predicted, labels),
    "f1_macro": lambda predicted, labels, num: _metrics().multiclass_f1_score(
        predicted, labels, num, "macro"
    ),
    "matthews": lambda predicted, labels, num: _metrics().binary_matthews_corrcoef(predicted, labels),
}


@dataclass(frozen=True)
class TextClassification(TextTask):
    """Text classification: input is text, output one label.

    Attributes:
        known_labels: labels in the order of the model's outputs; None = those of the training data.
        metrics: names of the metrics, the headline first.
    """

    known_labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("accuracy", "f1_macro")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the model's outputs."""
        if self.known_labels is not None:
            return self.known_labels
        return find_labels(self.rows("train"), self.label_column)

    def for_model(self, config: PretrainedConfig) -> "TextClassification":
        """Use the labels of the model if neither the task nor training data define them."""
        if self.known_labels is None and self.settings.train is None and self.settings.dataset is None:
            return replace(self, known_labels=labels_of(config))
        return self

    def columns(self) -> tuple[Column, ...]:
        """Add the column of the label."""
        return (*super().columns(), Column(self.label, "the name or the number of a class", "label"))

    def load(self, split: Split) -> Dataset:
        """Read the texts, and the labels as numbers."""
        rows = self.rows(split)
        columns = self.texts(rows)
        by_number = self.known_labels is not None
        columns["labels"] = number_labels(rows, self.label_column, self.labels, by_number=by_number)
        if split == "train" and len(set(columns["labels"])) == 1:
            raise UserError(
                f"{rows.origin}: all rows have the label {self.labels[columns['labels'][0]]!r}: give data with "
                "at least two"
            )
        return Dataset.from_dict(columns)

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open the model, with one logit per label."""
        config = load_config(path)
        if self.head_for(config).is_kept(config):
            check_same_labels(path, config, self.labels)
        return super().build_model(path, tokenizer, new_head=new_head)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the model with one logit per label; `config` has their number if the labels are only in the data."""
        if self.known_labels is not None:
            return super().new_model(config)
        model: PreTrainedModel = self.head_for(config).auto_class.from_config(config)
        return model

    def targets(self, data: Dataset) -> str:
        """Return the classes, with the number of examples of each."""
        return describe_labels(self.labels, data["labels"][:])

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return one output, with a class for each label."""
        return {"logits": len(self.labels)}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the last layer, if the model pools before it. GPT-2 and Llama classify every token, and then pool."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        # The last layer of models that classify every token has no bias.
        if layers and layers[-1].out_features == len(self.labels) and layers[-1].bias is not None:
            return {"logits": layers[-1]}
        return {}

    def preprocessing(self) -> str:
        """Add the labels in their order."""
        return f"{super().preprocessing()} into {', '.join(self.labels)}"

    def score(self, predictions: Sequence[int], dataset: Dataset) -> dict[str, float]:
        """Return the task's metrics; the best value of each is 1."""
        predicted, labels = torch.tensor(predictions), torch.tensor(dataset["labels"][:])
        return {name: METRICS[name](predicted, labels, len(self.labels)).item() for name in self.metrics}

    def head_settings(self) -> dict[str, Any]:
        """Return the labels."""
        return {
            "problem_type": "single_label_classification",
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: number for number, name in enumerate(self.labels)},
        }
