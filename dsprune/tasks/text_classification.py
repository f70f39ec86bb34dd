"""Classification of one text or of a pair of texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torchmetrics.functional.classification as metrics
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.tasks.labels import check_same_labels, find_labels, labels_of, number_labels
from dsprune.tasks.pretrained import check_max_length, load_config, load_model
from dsprune.tasks.source import HubData, read_rows
from dsprune.tasks.task import Batch, Collate, Features, Split, Task, TaskSettings, inputs_of

__all__ = ["TextClassification"]

METRICS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "accuracy": lambda predicted, labels, num: metrics.multiclass_accuracy(predicted, labels, num, "micro"),
    "f1": lambda predicted, labels, num: metrics.binary_f1_score(predicted, labels),
    "f1_macro": lambda predicted, labels, num: metrics.multiclass_f1_score(predicted, labels, num, "macro"),
    "matthews": lambda predicted, labels, num: metrics.binary_matthews_corrcoef(predicted, labels),
}


@dataclass(frozen=True)
class TextClassification(Task):
    """Texts in, one label out.

    Attributes:
        settings: the recipe's task section.
        text: column of the text, where the settings name none.
        text_pair: column of the second text, likewise; None = there is none.
        label: column of the label, likewise.
        known_labels: labels in the order of the model's outputs; None = those of the training data.
        metrics: names of the metrics, the headline first.
        hub: data for the splits that the settings give no data for.
    """

    settings: TaskSettings
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    known_labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("accuracy", "f1_macro")
    hub: HubData | None = None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the model's outputs."""
        if self.known_labels is not None:
            return self.known_labels
        return find_labels(read_rows(self.settings, "train", self.hub), self.settings.label or self.label)

    def for_model(self, config: PretrainedConfig) -> "TextClassification":
        """With the model's labels, where neither the task nor training data tell them."""
        if self.known_labels is None and self.settings.train is None and self.settings.dataset is None:
            return replace(self, known_labels=labels_of(config))
        return self

    def load(self, split: Split) -> Dataset:
        """Texts and label numbers."""
        rows = read_rows(self.settings, split, self.hub)
        columns: dict[str, list[Any]] = {"text": rows.texts(self.settings.text or self.text, "task.text")}
        text_pair = self.settings.text_pair or self.text_pair
        if text_pair is not None:
            columns["text_pair"] = rows.texts(text_pair, "task.text_pair")
        label = self.settings.label or self.label
        by_number = self.known_labels is not None
        columns["labels"] = number_labels(rows, label, self.labels, by_number=by_number)
        return Dataset.from_dict(columns)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Token ids; of a pair that is too long, the longer text is cut first."""
        features = tokenizer(
            rows["text"], rows.get("text_pair"), truncation=True, max_length=self.settings.max_length
        )
        lengths = [len(ids) for ids in features["input_ids"]]
        return {**features, "labels": rows["labels"], "length": lengths}

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest text of the batch."""
        pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)

        def collate(features: Sequence[Features]) -> Batch:
            return dict(pad([{name: f[name] for name in f if name != "length"} for f in features]))

        return collate

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """The model, with as many outputs as there are labels."""
        config = load_config(path)
        check_max_length(self.settings.max_length, config, tokenizer)
        if any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
            check_same_labels(path, config, self.labels)
        elif not new_head:
            raise UserError(f"model {path!r}: has no sequence-classification head: fine-tune it first")
        return load_model(
            AutoModelForSequenceClassification,
            path,
            tokenizer,
            num_labels=len(self.labels),
            id2label=dict(enumerate(self.labels)),
            label2id={name: number for number, name in enumerate(self.labels)},
        )

    def predict(self, model: nn.Module, batch: Batch) -> list[int]:
        """The number of the likeliest label."""
        return model(**inputs_of(batch))["logits"].argmax(dim=-1).tolist()

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """One output, with a class for each label."""
        del config
        return {"logits": len(self.labels)}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The last layer, of the models that pool first; the others (GPT-2, Llama) classify every token."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        # Those others have no bias there.
        if layers and layers[-1].out_features == len(self.labels) and layers[-1].bias is not None:
            return {"logits": layers[-1]}
        return {}

    def preprocessing(self) -> str:
        """The cut, and the order of the labels."""
        return f"{super().preprocessing()} into {', '.join(self.labels)}"

    def score(self, predictions: Sequence[int], dataset: Dataset) -> dict[str, float]:
        """The task's metrics, the best value of each is 1."""
        predicted, labels = torch.tensor(predictions), torch.tensor(dataset["labels"][:])
        return {name: METRICS[name](predicted, labels, len(self.labels)).item() for name in self.metrics}
