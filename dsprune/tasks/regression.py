"""A number for a text or a pair of texts: classification with one output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.pretrained import load_config
from dsprune.tasks.benchmark import Benchmark, Split
from dsprune.tasks.source import read_rows
from dsprune.tasks.task import Batch, LogitRows
from dsprune.tasks.text_classification import HEAD
from dsprune.tasks.texts import TextTask

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression(TextTask):
    """Texts in, one number out.

    The model learns the numbers less their mean, in units of their standard deviation, both of the training
    data; its configuration keeps them, as `label_mean` and `label_std`. Pearson's and Spearman's correlation
    do not depend on them.

    A softmax over one output says nothing, so a student imitates the two logits `(z, -z)` for an output z:
    `T^2 * KL` of these approaches `(z_teacher - z_student)^2 / 2` as the temperature rises, and weighs large
    differences less at a low one.

    Attributes:
        label: column of the number, where the settings name none.
        benchmark: what it is published as.
    """

    label: str = "label"
    benchmark: Benchmark | None = None

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training data's numbers."""
        numbers = np.array(self._numbers("train"))
        if not len(numbers) or numbers.std() == 0:
            raise UserError(
                f"task.train: column {self._label!r} has no two numbers that differ: give another"
            )
        return float(numbers.mean()), float(numbers.std())

    @property
    def _label(self) -> str:
        return self.settings.label or self.label

    def _numbers(self, split: Split) -> list[float]:
        return read_rows(self.settings, split, self.benchmark).numbers(self._label, "task.label")

    def load(self, split: Split) -> Dataset:
        """Texts and numbers."""
        rows = read_rows(self.settings, split, self.benchmark)
        return Dataset.from_dict({**self.texts(rows), "labels": rows.numbers(self._label, "task.label")})

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The encoded examples; those to train on have their numbers scaled."""
        data = super().prepare(split, tokenizer)
        if split == "validation":
            return data
        mean, std = self.scale
        return data.map(lambda labels: {"labels": (labels - mean) / std}, input_columns="labels")

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """The model, with one output."""
        config = load_config(path)
        if HEAD.is_in(config) and config.num_labels != 1:
            raise UserError(
                f"model {path!r}: was trained for {config.num_labels} labels and the task is a number: "
                "choose a model of this task, or one that has no head yet"
            )
        model = HEAD.load(
            path,
            tokenizer,
            self.settings.max_length,
            new_head=new_head,
            num_labels=1,
            problem_type="regression",
        )
        if new_head:
            model.config.label_mean, model.config.label_std = self.scale
        return model

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model, with one output."""
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config)

    def predict(self, model: nn.Module, batch: Batch) -> list[float]:
        """The output, as it comes."""
        return model(**self.inputs(batch))["logits"].float().squeeze(-1).tolist()

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """One output, as two opposite logits."""
        del config
        return {"logits": 2}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """The output and its opposite."""
        del batch
        return {"logits": LogitRows(torch.cat([outputs["logits"], -outputs["logits"]], dim=-1))}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """A number is no class."""
        del dataset
        return {}

    def score(self, predictions: Sequence[float], dataset: Dataset) -> dict[str, float]:
        """Pearson's and Spearman's correlation, both at most 1."""
        predicted = torch.tensor(predictions, dtype=torch.float64)
        labels = torch.tensor(dataset["labels"][:], dtype=torch.float64)
        return {
            "pearson": pearson_corrcoef(predicted, labels).item(),
            "spearman": spearman_corrcoef(predicted, labels).item(),
        }
