"""Evaluation shared among ranks, exactly: every example once, on any number of ranks, at any batch size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

__all__ = ["EvaluationBatch", "evaluation_batches", "gather_in_order"]

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationBatch:
    """Examples of one forward pass.

    Attributes:
        examples: their numbers.
        counts: False for a repetition that only keeps this rank in step with the others.
    """

    examples: tuple[int, ...]
    counts: bool = True


def evaluation_batches(
    lengths: Sequence[int], batch_size: int, rank: int, world_size: int
) -> list[EvaluationBatch]:
    """The forward passes of one rank, the longest examples first: memory runs out at once or not at all.

    Every rank gets the same number of passes, since under ZeRO-3 a forward pass is collective: a rank with
    fewer examples repeats its last ones.
    """
    assert lengths
    by_length = sorted(range(len(lengths)), key=lambda example: -lengths[example])
    mine = by_length[rank::world_size] or by_length[:1]
    batches = [
        EvaluationBatch(tuple(mine[start : start + batch_size]), counts=rank < len(lengths))
        for start in range(0, len(mine), batch_size)
    ]
    most = len(by_length[::world_size])  # rank 0 has the most examples
    passes = -(-most // batch_size)
    return batches + [EvaluationBatch(batches[-1].examples, counts=False)] * (passes - len(batches))


def gather_in_order(items: Mapping[int, T], group: dist.ProcessGroup | None) -> list[T]:
    """The items of all ranks, sorted by their keys. Collective: every rank must call this.

    Args:
        items: this rank's items; no key is on two ranks.
        group: the ranks; None = this process alone.
    """
    parts = [items]
    if group is not None:
        parts = [{} for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(parts, items, group=group)
    everything = {key: item for part in parts for key, item in part.items()}
    return [everything[key] for key in sorted(everything)]
