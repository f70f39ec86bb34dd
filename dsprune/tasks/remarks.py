"""Unusual properties of encoded examples that do not prevent training, each in one line."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dsprune.tasks.examples import column_of, tokens_of
from dsprune.tasks.source import Split
from dsprune.tasks.task import Task

__all__ = ["Examples", "remarks_on", "remarks_on_both"]


@dataclass(frozen=True)
class Examples:
    """The encoded examples of a split.

    Attributes:
        task: the task that encoded them.
        split: whether they are trained on.
        data: the examples.
    """

    task: Task
    split: Split
    data: Dataset

    @cached_property
    def inputs(self) -> list[int]:
        """A hash of the inputs of each example."""
        columns = self.task.samples(self.data).values()
        return [hash(repr(values)) for values in zip(*columns, strict=True)]

    @cached_property
    def labels(self) -> list[int]:
        """The class of each example; empty if an example has none, or several."""
        known = self.data["labels"][:] if "labels" in self.data.column_names else []
        return known if all(isinstance(label, int) for label in known) else []


def remarks_on(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield lines on one split: tokens that the tokenizer does not know, and inputs that are truncated."""
    task, split, data = examples.task, examples.split, examples.data
    if split == "validation" and (unknown := _num_unknown(data, tokenizer)):
        share = f"{unknown:,} of {len(tokens_of(data)):,} tokens"
        yield f"task.{split}: {share} are unknown to the tokenizer: the model cannot tell them apart"
    longest = task.settings.max_length
    if not task.cuts_rows and (num_full := int((column_of(data, "length") >= longest).sum())):
        yield (
            f"task.{split}: {num_full:,} of {len(data):,} examples have {longest} tokens, the most that "
            "task.max_length allows: longer examples are truncated"
        )


def remarks_on_both(train: Examples, validation: Examples) -> Iterator[str]:
    """Yield lines on the labels, and on overlaps of training and validation data."""
    if conflicts := _num_conflicts(train):
        yield (
            f"task.train: {conflicts:,} of {len(train.data):,} examples have the inputs of another example, but "
            "another label: no model can learn both"
        )
    if len(set(validation.labels)) == 1 < len(set(train.labels)):
        yield "task.validation: all examples have the same label: the metrics say little"
    known = set(train.inputs)
    if shared := sum(key in known for key in validation.inputs):
        yield (
            f"task.validation: {shared:,} of {len(validation.data):,} examples are in the training data too: "
            "the metrics will look better than on new data"
        )


def _num_unknown(data: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    unknown = tokenizer.unk_token_id
    if unknown is None or "input_ids" not in data.column_names:
        return 0
    # GPT-2 ends texts with the token that stands for unknown ones.
    return 0 if unknown == tokenizer.eos_token_id else int((tokens_of(data) == unknown).sum())


def _num_conflicts(examples: Examples) -> int:
    """Return the number of examples that have the same inputs as one of another class."""
    classes = defaultdict(list)
    for key, label in zip(examples.inputs, examples.labels, strict=False):
        classes[key].append(label)
    return sum(len(labels) for labels in classes.values() if len(set(labels)) > 1)
