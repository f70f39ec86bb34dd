"""The base class of tasks on one text or on a pair of texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.esm_mean import EsmMeanForSequenceClassification
from dsprune.model.pretrained import Head
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.rows import Column, Rows
from dsprune.tasks.source import Benchmark
from dsprune.tasks.task import Task

__all__ = ["TextTask"]

MEAN_HEAD = Head(
    EsmMeanForSequenceClassification, (EsmMeanForSequenceClassification.__name__,), "sequence-classification"
)


@dataclass(frozen=True)
class TextTask(Task):
    """Input is one text or two; subclasses add the label.

    Attributes:
        text: column of the text, unless the settings name one.
        text_pair: column of the second text, unless the settings name one; None = one text only.
        label: column of the label, unless the settings name one.
    """

    settings: TaskSettings
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    benchmark: Benchmark | None = None

    head = Head(AutoModelForSequenceClassification, ("ForSequenceClassification",), "sequence-classification")
    uses = (*Task.uses, "head")

    def head_for(self, config: PretrainedConfig) -> Head:
        """Return the head of a model with this configuration: its own, or that of `task.head`.

        Raises:
            UserError: `task.head` does not fit the model.
        """
        if MEAN_HEAD.is_in(config):
            return MEAN_HEAD
        if self.settings.head == "model":
            return self.head
        if config.model_type != "esm" or self.head.is_kept(config):
            what = "has a head" if config.model_type == "esm" else f"is of the type {config.model_type}"
            raise UserError(
                f"task.head: value mean: it is a new head for ESM, and the model {config.name_or_path!r} {what}: "
                f"leave it out, or choose another model"
            )
        return MEAN_HEAD

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the texts."""
        pair = self.text_pair
        return (
            Column(self.text, "a text", "text"),
            Column(pair or "", "the second text of a pair", "text_pair", needed=pair is not None),
        )

    def texts(self, rows: Rows) -> dict[str, list[Any]]:
        """Return the texts as columns `text` and, for pairs, `text_pair`."""
        columns: dict[str, list[Any]] = {"text": rows.texts(self.settings.text or self.text, "task.text")}
        text_pair = self.settings.text_pair or self.text_pair
        if text_pair is not None:
            columns["text_pair"] = rows.texts(text_pair, "task.text_pair")
        return columns

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize the texts and keep `labels`; of a pair that is too long, the longer text is cut first."""
        longest = self.settings.max_length
        added = tokenizer.num_special_tokens_to_add(pair="text_pair" in rows)
        if longest <= added:
            raise UserError(
                f"task.max_length: value {longest}: the tokenizer adds {added} tokens of its own, which leaves none of "
                f"the texts: raise it"
            )
        features = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=longest)
        lengths = [len(ids) for ids in features["input_ids"]]
        return {**features, "labels": rows["labels"], "length": lengths}

    @property
    def label_column(self) -> str:
        """The column of the label, by the settings or as it is published."""
        return self.settings.label or self.label
