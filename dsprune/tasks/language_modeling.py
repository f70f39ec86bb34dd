"""Masked and causal language modelling."""

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.pretrained import Head
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import READERS
from dsprune.tasks.examples import Batch, map_rows
from dsprune.tasks.rows import Column, names_of
from dsprune.tasks.source import Benchmark, Split
from dsprune.tasks.task import LogitRows, Task
from dsprune.tasks.text_files import lines_of
from dsprune.tasks.token_logits import IGNORED, TokenCounts, count_tokens, labelled_rows, linear_head

__all__ = ["CausalLanguageModeling", "MaskedLanguageModeling", "mask_tokens", "read_documents"]

COLUMNS = (Column("text", "a document; in a text file, each line is one", "text"),)


def read_documents(path: Path, header: Sequence[str]) -> pa.Table:
    """Read a text file with one document per line; empty lines are skipped."""
    return pa.table({"text": [line for line in lines_of(path) if line.strip()]})


@dataclass(frozen=True)
class LanguageModeling(Task):
    """Language modelling: input is text, output the next or the masked tokens.

    Documents are concatenated and cut into blocks of `task.max_length` tokens, without dropping any. A block is an
    example. The perplexity is over all counted tokens of all blocks.
    """

    cuts_rows: ClassVar[bool] = True
    readers = READERS | {".txt": read_documents}
    collator = DataCollatorForSeq2Seq

    settings: TaskSettings
    benchmark: Benchmark | None = None

    def columns(self) -> tuple[Column, ...]:
        """Return the column of the documents."""
        return COLUMNS

    def load(self, split: Split) -> Dataset:
        """Read the documents."""
        [text] = names_of(COLUMNS, self.settings)
        return Dataset.from_dict({"text": self.rows(split).texts(text, "task.text")})

    def predict(self, model: nn.Module, batch: Batch) -> list[TokenCounts]:
        """Return the loss and the number of correct predictions of each block."""
        logits = model(**self.inputs(batch))["logits"]
        return count_tokens(*self._aligned(logits, batch["labels"]))

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """Return one output, with a class for each token of the vocabulary."""
        return {"logits": config.vocab_size}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """Return the rows of the tokens that count."""
        return {"logits": labelled_rows(*self._aligned(outputs["logits"], batch["labels"]))}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """Return the number of tokens of each block that count."""
        return {"logits": np.array([len(labels) for labels in self.row_labels(dataset)["logits"]])}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the layer over the vocabulary."""
        return linear_head(model)

    def score(self, predictions: Sequence[TokenCounts], dataset: Dataset) -> dict[str, float]:
        """Return the fraction of tokens that are predicted correctly, and the perplexity."""
        total = TokenCounts.total(predictions)
        return {"accuracy": total.accuracy, "perplexity": total.perplexity}

    @abstractmethod
    def _aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs and labels `[examples, tokens, ...]`, aligned so that each output predicts its label."""


class CausalLanguageModeling(LanguageModeling):
    """Prediction of the next token, at every token of a block except the last."""

    head = Head(AutoModelForCausalLM, ("ForCausalLM", "LMHeadModel"), "causal language-modelling")

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Cut the documents into blocks; each document ends with the tokenizer's end-of-text token, if it has one."""
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

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return all tokens of each block except the first."""
        return {"logits": [labels[1:] for labels in dataset["labels"][:]]}

    def _aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:, :-1], labels[:, 1:]


class MaskedLanguageModeling(LanguageModeling):
    """Prediction of the masked tokens of a block.

    The masked tokens of a block are drawn once, with a seed from its content, so that teacher logits can be stored and
    evaluations are repeatable. With `task.copies` the training text is repeated with other tokens masked (BERT's
    pre-training had ten copies).
    """

    head = Head(AutoModelForMaskedLM, ("ForMaskedLM",), "masked language-modelling")
    uses = ("max_length", "masked", "copies")

    def prepare(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return the masked blocks; the training split has `task.copies` of each."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"model.tokenizer: {type(tokenizer).__name__} has no mask token: choose a model for masked "
                "language modelling, or the task causal-language-modeling"
            )
        blocks = super().prepare(split, tokenizer)
        copies = self.settings.copies if split == "train" else 1
        return concatenate_datasets(
            [
                map_rows(
                    blocks,
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
        """Cut the documents, with special tokens, into blocks; `special` marks those tokens for `prepare`."""
        documents = tokenizer(rows["text"], return_special_tokens_mask=True)
        tokens, special = (
            _cut(list(chain.from_iterable(documents[name])), self.settings.max_length)
            for name in ("input_ids", "special_tokens_mask")
        )
        # Blocks with only special tokens have nothing to mask.
        kept = [place for place, mask in enumerate(special) if not all(mask)]
        return {
            "input_ids": [tokens[place] for place in kept],
            "attention_mask": [[1] * len(tokens[place]) for place in kept],
            "special": [special[place] for place in kept],
            "length": [len(tokens[place]) for place in kept],
        }

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """Return the tokens, and the positions of those that count."""
        counted = [
            [place for place, label in enumerate(labels) if label != IGNORED]
            for labels in dataset["labels"][:]
        ]
        return {**super().samples(dataset), "counted": counted}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """Return the masked tokens."""
        return {
            "logits": [[label for label in labels if label != IGNORED] for labels in dataset["labels"][:]]
        }

    def preprocessing(self) -> str:
        """Add the fraction of masked tokens."""
        return f"{super().preprocessing()}, {self.settings.masked:g} of them masked"

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


def mask_tokens(
    ids: np.ndarray,
    special: np.ndarray,
    fraction: float,
    *,
    mask: int,
    vocabulary: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose at least one token to predict, and replace 80 % of the chosen by the mask token and 10 % by random tokens.

    Source: Devlin et al., BERT (NAACL 2019), section 3.1.

    Args:
        ids: `[tokens]`, the tokens of a block.
        special: `[tokens]`, True for tokens that are never chosen.
        fraction: fraction of the other tokens to choose.
        mask: the mask token.
        vocabulary: number of tokens to draw random tokens from.
        generator: draws the choice and the random tokens.

    Returns:
        The input, and the labels: the chosen tokens, and `IGNORED` elsewhere.
    """
    candidates = np.flatnonzero(~special)
    chosen = generator.permutation(candidates)[: max(1, round(fraction * len(candidates)))]
    num_masked, num_random = round(0.8 * len(chosen)), round(0.1 * len(chosen))
    inputs, labels = ids.copy(), np.full_like(ids, IGNORED)
    labels[chosen] = ids[chosen]
    inputs[chosen[:num_masked]] = mask
    replaced = chosen[num_masked : num_masked + num_random]
    inputs[replaced] = generator.integers(vocabulary, size=len(replaced))
    return inputs, labels


def _cut(tokens: list[int], length: int) -> list[list[int]]:
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]
