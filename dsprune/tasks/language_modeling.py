"""Masked and causal language modelling: a row of classes for every token that counts."""

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    DataCollatorForSeq2Seq,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.benchmark import Benchmark, Split
from dsprune.tasks.files import READERS, Reader, lines_of, read_table
from dsprune.tasks.seq2seq import IGNORED, TokenCounts, count_tokens, linear_head, rows_where
from dsprune.tasks.source import read_rows
from dsprune.tasks.task import Batch, Collate, LogitRows, Task
from dsprune.tasks.texts import padded

__all__ = ["CausalLanguageModeling", "MaskedLanguageModeling", "mask_tokens"]


def _documents(path: Path, header: Sequence[str]) -> pa.Table:
    """A document a line; empty lines are none."""
    return pa.table({"text": [line for line in lines_of(path) if line.strip()]})


@dataclass(frozen=True)
class LanguageModeling(Task):
    """Text in, the next or the missing tokens out.

    Documents are joined and cut into blocks of `task.max_length` tokens; nothing is left out. Each block is
    read on its own, and the perplexity is over all tokens that count, of all blocks.

    Attributes:
        settings: the recipe's task section.
        benchmark: what it is published as.
        readers: of its files; text files have a document a line.
    """

    head: ClassVar[Head]
    cuts_rows: ClassVar[bool] = True

    settings: TaskSettings
    benchmark: Benchmark | None = None
    readers: Mapping[str, Reader] = field(default_factory=lambda: {**READERS, ".txt": _documents})

    def load(self, split: Split) -> Dataset:
        """The documents."""
        rows = read_rows(self.settings, split, self.benchmark, partial(read_table, readers=self.readers))
        return Dataset.from_dict({"text": rows.texts(self.settings.text or "text", "task.text")})

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest block of the batch."""
        return padded(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=pad_to_multiple_of))

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """The model, with its head over the vocabulary."""
        return self.head.load(path, tokenizer, self.settings.max_length, new_head=new_head)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """The model, with its head over the vocabulary."""
        return self.head.auto_class.from_config(config)

    @abstractmethod
    def _aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, and the label of each of them."""

    def predict(self, model: nn.Module, batch: Batch) -> list[TokenCounts]:
        """How well each block's tokens are guessed."""
        logits = model(**self.inputs(batch))["logits"]
        return count_tokens(*self._aligned(logits, batch["labels"]))

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """One output, with a class for each token of the vocabulary."""
        return {"logits": config.vocab_size}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """The rows of the tokens that count."""
        return {"logits": rows_where(*self._aligned(outputs["logits"], batch["labels"]))}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """How many tokens count."""
        return {"logits": np.array([len(labels) for labels in self.row_labels(dataset)["logits"]])}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The layer over the vocabulary."""
        return linear_head(model)

    def score(self, predictions: Sequence[TokenCounts], dataset: Dataset) -> dict[str, float]:
        """The fraction of tokens that are guessed right, and the perplexity."""
        del dataset
        total = TokenCounts.total(predictions)
        return {"accuracy": total.accuracy, "perplexity": total.perplexity}


class CausalLanguageModeling(LanguageModeling):
    """The next token, at every token but the last of a block."""

    head = Head(AutoModelForCausalLM, ("ForCausalLM", "LMHeadModel"), "causal language-modelling")

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Blocks of documents, each of which ends with the tokenizer's end of text, if it has one."""
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        documents = tokenizer(rows["text"], add_special_tokens=False)["input_ids"]
        tokens = list(chain.from_iterable(document + end for document in documents))
        blocks = [block for block in _cut(tokens, self.settings.max_length) if len(block) > 1]
        return {
            "input_ids": blocks,
            "attention_mask": [[1] * len(block) for block in blocks],
            "labels": blocks,
            "length": list(map(len, blocks)),
        }

    def _aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:, :-1], labels[:, 1:]

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """All tokens but the first of each block."""
        return {"logits": [labels[1:] for labels in dataset["labels"][:]]}


class MaskedLanguageModeling(LanguageModeling):
    """The tokens of a block that are hidden.

    Which ones is decided once for each block, by its content, so that a teacher can be asked beforehand and
    an evaluation is the same each time; with `task.copies` the training text is taken several times, with
    other tokens hidden (as in BERT's own pre-training, ten times).
    """

    head = Head(AutoModelForMaskedLM, ("ForMaskedLM",), "masked language-modelling")

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The blocks, as often as the settings say."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"model.tokenizer: {type(tokenizer).__name__} has no mask token: choose a model that was made "
                "for masked language modelling, or causal-language-modeling"
            )
        blocks = super().prepare(split, tokenizer)
        copies = self.settings.copies if split == "train" else 1
        return concatenate_datasets(
            [
                blocks.map(
                    lambda ids, special, copy=copy: self._mask(tokenizer, ids, special, copy),
                    input_columns=["input_ids", "special"],
                    remove_columns="special",
                )
                for copy in range(copies)
            ]
        )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Blocks of documents with their special tokens; which are special is kept for `prepare`."""
        documents = tokenizer(rows["text"], return_special_tokens_mask=True)
        tokens, special = (
            _cut(list(chain.from_iterable(documents[name])), self.settings.max_length)
            for name in ("input_ids", "special_tokens_mask")
        )
        kept = [
            place for place, mask in enumerate(special) if not all(mask)
        ]  # of the others nothing can be hidden
        return {
            "input_ids": [tokens[place] for place in kept],
            "attention_mask": [[1] * len(tokens[place]) for place in kept],
            "special": [special[place] for place in kept],
            "length": [len(tokens[place]) for place in kept],
        }

    def _mask(
        self, tokenizer: PreTrainedTokenizerBase, ids: list[int], special: list[int], copy: int
    ) -> dict[str, list[int]]:
        generator = np.random.default_rng([zlib.crc32(np.array(ids).tobytes()), copy])
        masked, labels = mask_tokens(
            np.array(ids),
            np.array(special, dtype=bool),
            self.settings.masked,
            mask=int(tokenizer.mask_token_id),
            vocabulary=len(tokenizer),
            generator=generator,
        )
        return {"input_ids": masked.tolist(), "labels": labels.tolist()}

    def _aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return outputs, labels

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """The tokens, and which of them count."""
        counted = [
            [place for place, label in enumerate(labels) if label != IGNORED]
            for labels in dataset["labels"][:]
        ]
        return {**super().samples(dataset), "counted": counted}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """The hidden tokens."""
        return {
            "logits": [[label for label in labels if label != IGNORED] for labels in dataset["labels"][:]]
        }

    def preprocessing(self) -> str:
        """The fraction that is hidden."""
        return f"{super().preprocessing()}, {self.settings.masked:g} of them masked"


def _cut(tokens: list[int], length: int) -> list[list[int]]:
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]


def mask_tokens(
    ids: np.ndarray,
    special: np.ndarray,
    fraction: float,
    *,
    mask: int,
    vocabulary: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens, at least one: 80 % of them behind the mask token, 10 % behind others, 10 % not at all.

    Source: Devlin et al., BERT (NAACL 2019), section 3.1.

    Args:
        ids: tokens of a block.
        special: True for those that are never hidden.
        fraction: how many of the others are.
        mask: the mask token.
        vocabulary: number of tokens to draw from.
        generator: of the choice.

    Returns:
        The tokens to show, and the labels, `IGNORED` where nothing is hidden.
    """
    free = np.flatnonzero(~special)
    hidden = generator.permutation(free)[: max(1, round(fraction * len(free)))]
    num_masked, num_random = round(0.8 * len(hidden)), round(0.1 * len(hidden))
    shown, labels = ids.copy(), np.full_like(ids, IGNORED)
    labels[hidden] = ids[hidden]
    shown[hidden[:num_masked]] = mask
    others = hidden[num_masked : num_masked + num_random]
    shown[others] = generator.integers(vocabulary, size=len(others))
    return shown, labels
