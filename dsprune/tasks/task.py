"""The interface of tasks: the data, the model's head, the metrics, and what distillation needs.

To add a task:

1. Write one file with a subclass of `Task`, a frozen dataclass whose first field is `settings`, the recipe's task
   section, and that names its `head`. The abstract methods are required. The other methods have defaults, which fit a
   model with one output `logits` that has one row for each example. Base classes do more: `TextTask` (texts.py) for one
   text or two, `Seq2Seq` (seq2seq.py) for models that generate.
2. Name it in `TASKS` in dsprune/registry.py; in a package of your own, by an entry point, as in
   examples/outside_package/pyproject.toml; in a script, by `dsprune.register_task("my-task", MyTask)`. Instead of a
   class you can name any callable that takes the task section and returns a `Task`: one class then serves many data
   sets, as in glue.py.
3. Test it. An entry in dsprune/testing/kinds/kind.py has the tests of all kinds of tasks cover yours; in a package of
   your own, call `dsprune.testing.tasks.check_task`.

When the methods are called:

- Training: `for_tokenizer`, `prepare` of both splits (it calls `load` and `encode`), `collate`, `build_model`. The
  loss is the one that the model returns for a batch with labels.
- Evaluation: `for_model` (by `dsprune eval`), `for_tokenizer`, `build_model` with `new_head=False`, `predict` for each
  batch, and `score` once.
- `dsprune plan`: all of training up to `build_model`, on the meta device, and `targets`; without the data, `new_model`.
  `dsprune data`: `load`, `remarks`, `columns`.
- Distillation: `inputs` and `logit_rows` for each batch. To make a teacher store: `classes`, `heads`, `samples`,
  `num_rows`, `preprocessing`. `dsprune calibrate`: `row_labels`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.pretrained import Head, load_config
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS, Reader, read_table
from dsprune.tasks.examples import (
    LABELS,
    Batch,
    Collate,
    check_tokens,
    map_rows,
    padding_collate,
    spread,
    without_labels,
)
from dsprune.tasks.rows import Column, Rows
from dsprune.tasks.source import Benchmark, Split, read_rows

__all__ = ["LogitRows", "Task"]


@dataclass(frozen=True)
class LogitRows:
    """The rows of one output that count; a row is the logits of one softmax.

    Attributes:
        logits: `[rows, classes]`, the rows of an example next to each other, examples in the order of the batch.
        counts: `[examples]`, number of rows of each example; None = one each.
    """

    logits: Tensor
    counts: Tensor | None = None


class Task(ABC):
    """The data, the model head and the metrics of a task, and what is distilled.

    Training, evaluation and distillation use a task through these methods only.
    """

    settings: TaskSettings
    """The recipe's task section."""

    benchmark: Benchmark | None
    """The published data set; None = a kind of task, for any data."""

    cuts_rows: ClassVar[bool] = False
    """Whether `encode` makes more or fewer examples than rows, so that counting them needs the tokenizer."""

    uses: ClassVar[tuple[str, ...]] = ("max_length",)
    """The fields of the task section that the task reads, beside those of the data and of the columns."""

    readers: Mapping[str, Reader] = READERS
    """The readers of its files, by suffix."""

    collator: ClassVar[Any] = DataCollatorWithPadding
    """Pads a batch: one of transformers' data collators."""

    only_for_score: ClassVar[tuple[str, ...]] = ()
    """The columns of encoded examples that the model does not read."""

    head: ClassVar[Head]
    """The head that the task puts on a model."""

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """All published data sets: several, where a task trains on several together."""
        return () if self.benchmark is None else (self.benchmark,)

    # ---- data

    def rows(self, split: Split) -> Rows:
        """Read the rows of a split as they are, for `load`.

        Raises:
            UserError: see `dsprune.tasks.source.read_rows`.
        """
        return read_rows(self.settings, split, self.benchmark, partial(read_table, readers=self.readers))

    @abstractmethod
    def load(self, split: Split) -> Dataset:
        """Read and check a split: one row for each example of the data, in the order of the data.

        Callers other than `prepare` use the number of rows only, so the columns are up to the task.

        Raises:
            UserError: data are missing or invalid; the message names the field, the file and the row.
        """

    @abstractmethod
    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Encode a batch of rows for `Dataset.map`, given as a list of values for each column of `load`.

        Returns:
            A list of values for each column of the examples: the model's inputs without padding, its labels, what
            `score` needs, and `length`, the number of tokens, by which batches are formed. Columns of `load` are
            dropped unless they are returned.
        """

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return the encoded examples of a split, from at most `max_train` or `max_validation` of its rows.

        Optional. Override it for what `encode` cannot do batch by batch.

        Raises:
            UserError: the split has no examples, or `load` refuses it.
        """
        limit = self.settings.max_train if split == "train" else self.settings.max_validation
        rows = spread(self.load(split), limit)
        if not len(rows):
            raise UserError(f"task.{split}: no examples: give a file or data set that has some")
        data = map_rows(rows, partial(self.encode, tokenizer), batched=True, remove_columns=rows.column_names)
        check_tokens(data, split)
        return data

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Return a function that makes a batch of encoded examples, padded to the longest of them.

        Optional; default: `collator` pads, without `only_for_score` and `length`. The batch holds only what the model's
        forward pass takes. Its length is rounded up to a multiple of `pad_to_multiple_of`; None = it is not.
        """
        collator = self.collator(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        return padding_collate(collator, exclude=self.only_for_score)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns that the task reads of a user's own data. Optional; default: none are named."""
        return ()

    def remarks(self, split: Split) -> list[str]:
        """Return one line of warning for each problem of a split that is used anyway. Optional; default: none."""
        return []

    def targets(self, data: Dataset) -> str:
        """Say in one line what encoded examples teach, such as the classes. Optional; default: nothing."""
        return ""

    # ---- model

    def head_for(self, config: PretrainedConfig) -> Head:
        """Return the head of a model with this configuration. Optional; default: `head`."""
        return self.head

    def head_settings(self) -> dict[str, Any]:
        """Return what the task sets in the model's configuration, such as `num_labels`. Optional; default: nothing."""
        return {}

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open a model's folder or its name on the hub, with this task's head, in fp32.

        Optional; default: with `head_for` and `head_settings`. A model without a head gets a new one, to be trained, if
        `new_head`; otherwise it is refused.

        Raises:
            UserError: the model cannot be opened or does not fit the task.
        """
        head, length = self.head_for(load_config(path)), self.settings.max_length
        return head.load(path, tokenizer, length, new_head=new_head, **self.head_settings())

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the model that `build_model` makes from this configuration, with newly drawn weights.

        Optional; default: as for `build_model`. It is called under the meta device, to count weights, and must work
        without the data.
        """
        config.update(self.head_settings())
        model: PreTrainedModel = self.head_for(config).auto_class.from_config(config)
        return model

    def for_model(self, config: PretrainedConfig) -> "Task":
        """Return this task with the settings that a trained model's configuration defines, such as the labels.

        Optional; default: the task itself. It is called before `build_model` where a model is evaluated.
        """
        return self

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> "Task":
        """Return this task with the tokenizer, for a `score` that compares texts. Optional; default: itself."""
        return self

    # ---- evaluation

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Return one small, picklable prediction for each example of the batch.

        Optional; default: the class with the largest logit. It is called without gradients, the same number of times on
        every rank. At ZeRO stage 3 every forward pass is collective, so the number of passes must not depend on the
        batch.

        Args:
            model: the model or a DeepSpeed engine around it, in evaluation mode.
            batch: on the model's device.
        """
        predictions: list[Any] = model(**self.inputs(batch))["logits"].argmax(dim=-1).tolist()
        return predictions

    @abstractmethod
    def score(self, predictions: Sequence[Any], dataset: Dataset) -> dict[str, float]:
        """Return the metrics by name, the headline metric first. A higher value of the headline metric is better.

        There is a prediction for each encoded example of `dataset`, in its order, from all ranks.
        """

    # ---- distillation

    @abstractmethod
    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return the distilled outputs by name, with the width of their rows: the number of classes."""

    def inputs(self, batch: Batch) -> Batch:
        """Return the entries of a batch that the model needs for its logits. Optional; default: all but the labels."""
        return without_labels(batch)

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """Return the rows that count of each distilled output.

        Optional; default: `outputs["logits"]`, `[examples, classes]`, with one row for each example. Where `heads` is
        overridden, only select rows here: the method is then applied to the inputs of the heads as well.

        Args:
            outputs: the model's outputs by name; or, under the same names, the inputs of `heads`.
            batch: the batch that they were computed from.
        """
        return {"logits": LogitRows(outputs["logits"])}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray] | None:
        """Return the number of rows of each example, `[examples]`, for each output. Optional; None = one each."""
        return None

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the linear layer that makes the rows of each output, so that its inputs can be stored instead.

        Optional; default: none, which rules out stores of kind `hidden`. Name all outputs or none.
        """
        return {}

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """Return the columns from which a store computes the fingerprint of each example.

        Optional; default: all that the model reads but the labels. Examples with the same values must have the same
        rows. If the labels decide which rows count, include them.
        """
        left_out = (*LABELS, "length", *self.only_for_score)
        names = [name for name in dataset.column_names if name not in left_out]
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return the classes of the rows of each example, for each output, to measure a teacher's accuracy.

        Optional; default: the column `labels`. Return nothing where labels are not classes.
        """
        return {"logits": [[label] for label in dataset["labels"][:]]}

    def preprocessing(self) -> str:
        """Describe the preprocessing that decides the teacher's outputs. A store with another description is refused.

        Optional; default: the class and `max_length`.
        """
        return f"{type(self).__name__} of at most {self.settings.max_length} tokens"
