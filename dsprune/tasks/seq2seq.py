"""Outputs over a vocabulary, row after row; and what all tasks share whose output is a sequence that a model writes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, PretrainedConfig, PreTrainedTokenizerBase

from dsprune.tasks.task import Batch, Collate, LogitRows, Task
from dsprune.tasks.texts import padded
from dsprune.zero.parameters import is_partitioned

__all__ = ["IGNORED", "Seq2Seq", "TokenCounts", "count_tokens", "linear_head", "rows_where"]

IGNORED = -100
"""The label of a token that does not count, for every loss of torch and transformers."""


class TokenCounts(NamedTuple):
    """Sums over tokens: of the negative log-likelihood, of right guesses, and how many tokens there are."""

    nll: float
    right: int
    tokens: int

    @classmethod
    def total(cls, parts: Iterable[Self]) -> "TokenCounts":
        """The sums over all parts; exact, so their order does not matter."""
        nll, right, tokens = zip(*parts, strict=True)
        return TokenCounts(math.fsum(nll), sum(right), sum(tokens))

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of a token."""
        mean = self.nll / max(1, self.tokens)
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def accuracy(self) -> float:
        """The fraction of tokens that are guessed right."""
        return self.right / max(1, self.tokens)


def count_tokens(logits: Tensor, labels: Tensor) -> list[TokenCounts]:
    """The counts of each example, `logits [examples, tokens, classes]`; one at a time, logits are large."""
    counts = []
    for row, label in zip(logits, labels, strict=True):
        kept = label != IGNORED
        row, label = row[kept].float(), label[kept]
        nll = nn.functional.cross_entropy(row, label, reduction="sum").item()
        counts.append(TokenCounts(nll, int((row.argmax(dim=-1) == label).sum()), int(kept.sum())))
    return counts


def rows_where(outputs: Tensor, labels: Tensor) -> LogitRows:
    """The rows of `outputs [examples, tokens, width]` whose token counts, example after example."""
    kept = labels != IGNORED
    return LogitRows(outputs[kept], kept.sum(dim=1))


def linear_head(model: nn.Module) -> dict[str, nn.Linear]:
    """The output layer, if the logits are what it makes and nothing else."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config
    after = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    shift = getattr(model, "final_logits_bias", torch.zeros(1))
    changed = any(getattr(config, name, None) for name in after) or bool(shift.any())
    return {"logits": head} if isinstance(head, nn.Linear) and not changed else {}


class Seq2Seq(Task):
    """The decoder reads the labels, shifted by one, while it is trained; in evaluation it reads what it wrote.

    Attributes:
        num_given: tokens at the start of each output that are given, not guessed, such as its language.
    """

    num_given: int = 0

    def max_new_tokens(self) -> int:
        """How long an output may become."""
        return self.settings.max_target

    def collate(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collate:
        """Pad to the longest input and the longest output of the batch."""
        pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        return padded(pad, without=self.only_for_score)

    only_for_score: tuple[str, ...] = ()
    """Columns that the model does not read."""

    def inputs(self, batch: Batch) -> Batch:
        """All of it: the labels are what the decoder reads."""
        return batch

    def predict(self, model: nn.Module, batch: Batch) -> list[list[int]]:
        """The tokens of each output. Collective under ZeRO-3: ranks write until the last one has finished."""
        writer: Any = getattr(model, "module", model)  # of a DeepSpeed engine, whose config is another
        first = torch.full_like(batch["labels"][:, :1], writer.config.decoder_start_token_id)
        given = torch.cat([first, batch["labels"][:, : self.num_given]], dim=1)
        written = writer.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=given,
            max_new_tokens=self.max_new_tokens(),
            num_beams=self.settings.beams,
            do_sample=False,
            synced_gpus=any(map(is_partitioned, writer.parameters())),
        )
        return written[:, given.shape[1] :].tolist()

    def classes(self, config: PretrainedConfig) -> dict[str, int]:
        """One output, with a class for each token of the target's vocabulary."""
        return {"logits": config.get_text_config(decoder=True).vocab_size}

    def logit_rows(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, LogitRows]:
        """The rows of the output's tokens."""
        return {"logits": rows_where(outputs["logits"], batch["labels"])}

    def num_rows(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """How many tokens the outputs have."""
        return {"logits": np.array(list(map(len, dataset["labels"][:])))}

    def heads(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The layer over the vocabulary."""
        return linear_head(model)

    def samples(self, dataset: Dataset) -> dict[str, Sequence[Any]]:
        """The input, and the output that the decoder reads."""
        names = ("input_ids", "attention_mask", "labels")
        return {name: dataset[name][:] for name in names}

    def row_labels(self, dataset: Dataset) -> dict[str, Sequence[Sequence[int]]]:
        """The tokens of the outputs."""
        return {"logits": dataset["labels"][:]}

    def preprocessing(self) -> str:
        """The cuts."""
        return f"{super().preprocessing()} and {self.max_new_tokens()} out"
