"""One mask update: its record, and its changes until its step is applied."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from dsprune.schedule import MaskUpdate

__all__ = ["PendingUpdate", "UpdateRecord"]


@dataclass(frozen=True)
class UpdateRecord:
    """The result and the cost of one mask update.

    Attributes:
        update: step and sparsity of the mask update.
        num_pruned: number of pruned weights, over all tensors and ranks.
        seconds: time that this rank spent on the selection.
        bytes_sent: bytes that this rank passed to collectives in the selection.
        num_regrown: number of weights that were pruned before and grew back; None if the recipe lets none grow back.
    """

    update: MaskUpdate
    num_pruned: int
    seconds: float
    bytes_sent: int
    num_regrown: int | None = None


class PendingUpdate(NamedTuple):
    """A mask update whose step is not applied yet.

    Attributes:
        record: the record to log.
        bits: the new packed masks.
        weights: the new weights of a method that updates them; else empty.
        regrown: the new marks of regrown weights; empty if the recipe lets none grow back.
        num_marked: number of marked weights, over all tensors and ranks.
    """

    record: UpdateRecord
    bits: list[Tensor]
    weights: list[Tensor]
    regrown: list[Tensor]
    num_marked: int
