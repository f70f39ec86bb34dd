"""What tasks share whose input is a text, or a pair of texts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.rows import Rows
from dsprune.tasks.task import Batch, Collate, Features, Task

__all__ = ["TextTask", "padded"]


@dataclass(frozen=True)
class TextTask(Task):
    """Reads and encodes the texts.

    Attributes:
        settings: the recipe's task section.
        text: column of the text, where the settings name none.
        text_pair: column of the second text, likewise; None = there is none.
    """

    settings: TaskSettings
    text: str = "text"
    text_pair: str | None = None

    def texts(self, rows: Rows) -> dict[str, list[Any]]:
        """The texts of some rows: of the columns that the settings name, else of the task's own."""
        columns: dict[str, list[Any]] = {"text": rows.texts(self.settings.text or self.text, "task.text")}
        text_pair = self.settings.text_pair or self.text_pair
        if text_pair is not None:
            columns["text_pair"] = rows.texts(text_pair, "task.text_pair")
        return columns

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Token ids; of a pair that is too long, the longer text is cut first."""
        longest = self.settings.max_length
        features = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=longest)
        lengths = [len(ids) for ids in features["input_ids"]]
        return {**features, "labels": rows["labels"], "length": lengths}

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest text of the batch."""
        return padded(DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of))


def padded(pad: Callable[[list[dict[str, Any]]], Any], without: Collection[str] = ()) -> Collate:
    """A collate function that pads, and leaves out what the model does not read.

    Args:
        pad: one of transformers' data collators.
        without: columns that only `score` needs; the length is always left out.
    """
    left_out = {*without, "length"}

    def collate(features: Sequence[Features]) -> Batch:
        return dict(pad([{name: one[name] for name in one if name not in left_out} for one in features]))

    return collate
