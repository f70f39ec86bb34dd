"""Losses, counts and rows of tasks with one row of logits over a vocabulary for each token."""

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from dsprune.tasks.task import LogitRows

__all__ = ["IGNORED", "TokenCounts", "count_tokens", "labelled_rows", "linear_head"]

IGNORED = -100
"""The label of an ignored token, in every loss of torch and transformers."""


class TokenCounts(NamedTuple):
    """Sums over tokens: of the negative log-likelihood, of correct predictions, and the number of tokens."""

    nll: float
    correct: int
    tokens: int

    @classmethod
    def total(cls, parts: Iterable[Self]) -> "TokenCounts":
        """Return the sums over all parts. They are exact, so the order of the parts does not matter."""
        nll, correct, tokens = zip(*parts, strict=True)
        return TokenCounts(math.fsum(nll), sum(correct), sum(tokens))

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of a token."""
        mean = self.nll / max(1, self.tokens)
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def accuracy(self) -> float:
        """The fraction of tokens that are predicted correctly."""
        return self.correct / max(1, self.tokens)


def count_tokens(logits: Tensor, labels: Tensor) -> list[TokenCounts]:
    """Return the counts of each example, computed one at a time, because logits are large.

    Args:
        logits: `[examples, tokens, classes]`.
        labels: `[examples, tokens]`, `IGNORED` for ignored tokens.
    """
    counts = []
    for row, label in zip(logits, labels, strict=True):
        kept = label != IGNORED
        row, label = row[kept].float(), label[kept]
        nll = nn.functional.cross_entropy(row, label, reduction="sum").item()
        counts.append(TokenCounts(nll, int((row.argmax(dim=-1) == label).sum()), int(kept.sum())))
    return counts


def labelled_rows(outputs: Tensor, labels: Tensor) -> LogitRows:
    """Return the rows of `outputs [examples, tokens, width]` whose token has a label, example after example."""
    kept = labels != IGNORED
    return LogitRows(outputs[kept], kept.sum(dim=1))


def linear_head(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the output layer as `logits`, if it computes the logits alone; otherwise an empty mapping."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config
    after = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    shift = getattr(model, "final_logits_bias", torch.zeros(1))
    changed = any(getattr(config, name, None) for name in after) or bool(shift.any())
    return {"logits": head} if isinstance(head, nn.Linear) and not changed else {}
