"""Outputs over a vocabulary: which rows count, how well they guess, and the layer that makes them."""

import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from dsprune.tasks.task import LogitRows

__all__ = ["IGNORED", "TokenCounts", "count_tokens", "linear_head", "rows_where"]

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
