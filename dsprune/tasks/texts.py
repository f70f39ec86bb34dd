"""The base class of tasks whose input is one text or a pair of texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.batches import Collate, padding_collate
from dsprune.tasks.rows import Rows
from dsprune.tasks.task import Task

__all__ = ["TextTask"]


@dataclass(frozen=True)
class TextTask(Task):
    """Texts in; subclasses add the label.

    Attributes:
        settings: the recipe's task section.
        text: column of the text, unless the settings name one.
        text_pair: column of the second text, unless the settings name one; None = one text only.
    """

    settings: TaskSettings
    text: str = "text"
    text_pair: str | None = None

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
        features = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=longest)
        lengths = [len(ids) for ids in features["input_ids"]]
        return {**features, "labels": rows["labels"], "length": lengths}

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest text of the batch."""
        return padding_collate(DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of))
