"""Regression: a number for one text or a pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.pretrained import load_config
from dsprune.tasks.examples import Batch, map_rows
from dsprune.tasks.rows import Column
from dsprune.tasks.source import Split
from dsprune.tasks.task import LogitRows
from dsprune.tasks.texts import TextTask

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression(TextTask):
    """Regression: input is text, output one number.

    The model is trained on standardized numbers: minus the mean of the training data, divided by their standard
    deviation. Its configuration stores both, as `label_mean` and `label_std`. Pearson's and Spearman's correlation do
    not depend on them.

    The softmax of a single logit is constant, so the two logits `(z, -z)` are distilled for an output z: `T^2 * KL` of
    these approaches `(z_teacher - z_student)^2 / 2` as the temperature rises, and gives large differences less weight
    at a low temperature.
    """

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training data's numbers."""
        numbers = np.array(self.rows("train").numbers(self.label_column, "task.label"))
        if not len(numbers) or not 0 < numbers.std() < np.inf:
            raise UserError(
                f"task.train: column {self.label_column!r} does not hold two different numbers: give another"
            )
        return float(numbers.mean()), float(numbers.std())

    def columns(self) -> tuple[Column, ...]:
        """Add the column of the number."""
        return (*super().columns(), Column(self.label, "a number", "label"))

    def load(self, split: Split) -> Dataset:
        """Read the texts and the numbers."""
        rows = self.rows(split)
        numbers = rows.numbers(self.label_column, "task.label")
        if len(numbers) > 1 and len(set(numbers)) == 1:
            raise UserError(
                f"{rows.origin}: all rows have the number {numbers[0]:g} in column {self.label_column!r}, so there "
                "is no correlation with it: give other data"
            )
        return Dataset.from_dict({**self.texts(rows), "labels": numbers})

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return the encoded examples; the numbers of the training split are standardized."""
        data = super().prepare(split, tokenizer)
        if split == "validation":
            return data
        mean, std = self.scale
        return map_rows(data, lambda labels: {"labels": (labels - mean) / std}, input_columns="labels")

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open the model, with one logit."""
        config = load_config(path)
        if self.head_for(config).is_kept(config) and config.num_labels != 1:
            raise UserError(
                f"model {path!r}: was trained for {config.num_labels} labels and the task is a number: "
                "choose a model of this task, or set model.new_head: true for a new head"
            )
        model = super().build_model(path, tokenizer, new_head=new_head)
        if new_head:
            model.config.label_mean, model.config.label_std = self.scale
        return model

    def head_settings(self) -> dict[str, Any]:
        """Return one label, a number."""
        return {"num_labels": 1, "problem_type": "regression"}

    def targets(self, data: Dataset) -> str:
        """Return the mean and the spread of the numbers."""
        mean, std = self.scale
        return f"a number: mean {mean:.4g}, standard deviation {std:.4g}"

    def predict(self, model: nn.Module, batch: Batch) -> list[float]:
        """Return the model's output, still standardized."""
        predictions: list[float] = model(**self.inputs(batch))["logits"].float().squeeze(-1).tolist()
        return predictions

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return one output, of two opposite logits."""
        return {"logits": 2}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """Return the output and its negative as two logits."""
        return {"logits": LogitRows(torch.cat([outputs["logits"], -outputs["logits"]], dim=-1))}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return nothing: the labels are not classes."""
        return {}

    def score(self, predictions: Sequence[float], dataset: Dataset) -> dict[str, float]:
        """Return Pearson's and Spearman's correlation, both at most 1."""
        from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

        predicted = torch.tensor(predictions, dtype=torch.float64)
        labels = torch.tensor(dataset["labels"][:], dtype=torch.float64)
        return {
            "pearson": pearson_corrcoef(predicted, labels).item(),
            "spearman": spearman_corrcoef(predicted, labels).item(),
        }
