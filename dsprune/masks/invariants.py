"""The invariants of a shard: its pruned entries are zero, and no zero is -0.0."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.masks.bits import unpack

__all__ = ["Finding", "check_shard"]


@dataclass(frozen=True)
class Finding:
    """A violated invariant.

    Attributes:
        tensor: name of the tensor.
        rule: the invariant, as a sentence.
        count: number of entries that violate it.
    """

    tensor: str
    rule: str
    count: int

    def __str__(self) -> str:
        return f"{self.tensor}: {self.rule}: {self.count:,} entries violate it"


def check_shard(name: str, bits: Tensor, views: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Check that all pruned entries are zero and that no entry is -0.0, and yield each violation.

    Args:
        name: the tensor's name.
        bits: packed mask of the shard.
        views: 1-D tensors of the shard by name: "weight", "working copy", "exp_avg", ...
    """
    for what, values in views.items():
        if values.numel() == 0:
            continue
        kept = unpack(bits, values.numel()).to(values.device)
        zero = values == 0
        if count := int((~kept & ~zero).sum()):
            yield Finding(name, f"pruned entries of the {what} are zero", count)
        if count := int((zero & torch.signbit(values)).sum()):
            yield Finding(name, f"zeros of the {what} are +0.0", count)
