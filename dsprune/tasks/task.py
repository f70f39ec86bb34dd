"""What a task is: where the data come from, how they are encoded, the model's head, the metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.registry import TASKS
from dsprune.tasks.benchmark import Benchmark, Split

__all__ = [
    "Batch",
    "Collate",
    "Features",
    "LogitRows",
    "Split",
    "Task",
    "TaskSettings",
    "build_task",
    "inputs_of",
    "on_device",
]

LABELS = ("labels", "start_positions", "end_positions")
"""Columns that a model compares its outputs with."""


Features = Mapping[str, Any]


Batch = dict[str, Tensor]


Collate = Callable[[Sequence[Features]], Batch]


@dataclass(frozen=True)
class LogitRows:
    """The rows of one output that count, each one softmax: those of an example follow one another.

    Attributes:
        logits: `[rows, classes]`.
        counts: number of rows of each example; None = one each.
    """

    logits: Tensor
    counts: Tensor | None = None


class Task(ABC):
    """One kind of data, model head and metric; training and evaluation know a task by these methods only.

    To add a kind, write one file with a subclass, and name it in `dsprune/registry.py`.
    """

    settings: TaskSettings
    benchmark: Benchmark | None
    """What it is published as; None = it is a kind of task, for anyone's data."""

    cuts_rows: ClassVar[bool] = False
    """Whether a row of the data is not one example, so that only the tokenizer knows how many there are."""

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """All that it is published as: several, where a task trains on several together."""
        return () if self.benchmark is None else (self.benchmark,)

    @abstractmethod
    def load(self, split: Split) -> Dataset:
        """The examples of a split, checked, in their own order; `prepare` is what callers want."""

    @abstractmethod
    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Features of some rows of `load`: the model's inputs, what `score` needs, and `length` in tokens."""

    @abstractmethod
    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """A function that makes a batch of features, padded to the longest of them."""

    @abstractmethod
    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """The model of a folder or hub name with this task's head.

        Args:
            path: folder or hub name.
            tokenizer: the tokenizer that encodes for it.
            new_head: make a new head, to be trained, where `path` has none; False refuses such a model.
        """

    @abstractmethod
    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model that `build_model` makes of a folder with this configuration, its weights drawn anew."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """One small, picklable prediction for each example of the batch; one forward pass on every rank."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], dataset: Dataset) -> dict[str, float]:
        """Metrics of the predictions for all of `dataset`, in its order.

        The headline metric is the first, and of that one more is better.
        """

    def for_model(self, config: PretrainedConfig) -> "Task":
        """This task, completed with what a model that was trained for it knows, such as the labels."""
        del config
        return self

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> "Task":
        """This task, completed with what turns predictions into text, where `score` compares texts."""
        del tokenizer
        return self

    def inputs(self, batch: Batch) -> Batch:
        """What a model reads of a batch to give its logits; unless said otherwise, all but the labels."""
        return inputs_of(batch)

    @abstractmethod
    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """The outputs that a student shares with its teacher, by name, and the width of their rows."""

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """The rows that count of each shared output; unless said otherwise, an example is one row of it.

        Args:
            outputs: what the model gave for the batch, or the inputs of its heads in their place.
            batch: the examples.
        """
        del batch
        return {"logits": LogitRows(outputs["logits"])}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray] | None:
        """How many rows each example has in each shared output; None = one each."""
        del dataset
        return None

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The last layer of each shared output, where it is a linear one that makes row after row."""
        del model
        return {}

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """What makes an example the same for a teacher, by columns: what the model reads, without labels."""
        names = [name for name in dataset.column_names if name not in (*LABELS, "length")]
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """The class of each row of each example in each shared output; none where they are no classes."""
        return {"logits": [[label] for label in dataset["labels"][:]]}

    def preprocessing(self) -> str:
        """What else decides about the teacher's answers, for a person who compares two of them."""
        return f"{type(self).__name__} of at most {self.settings.max_length} tokens"

    def remarks(self, split: Split) -> list[str]:
        """What one should know of a split, though it is used as it is."""
        del split
        return []

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The encoded examples of a split, at most `max_train` or `max_validation` of them."""
        limit = self.settings.max_train if split == "train" else self.settings.max_validation
        rows = spread(self.load(split), limit)
        if not len(rows):
            raise UserError(f"task.{split}: no examples: give a file or data set that has some")
        return rows.map(partial(self.encode, tokenizer), batched=True, remove_columns=rows.column_names)


def build_task(settings: TaskSettings) -> Task:
    """Return the task that the settings name.

    Raises:
        UserError: there is no such task.
    """
    task: Task = TASKS.get(settings.name)(settings)
    return task


def spread(rows: Dataset, limit: int | None) -> Dataset:
    """At most `limit` rows, spread evenly over all: the first rows of a sorted file would mislead."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select([i * len(rows) // limit for i in range(limit)])


def inputs_of(batch: Batch) -> Batch:
    """A batch without its labels."""
    return {name: tensor for name, tensor in batch.items() if name not in LABELS}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
