"""What a pruning method keeps of a rank's shards, sharded exactly as the masks are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dsprune.methods.method import Accumulator
from dsprune.model.shard import Shard

__all__ = ["AccumulatorSet"]


class AccumulatorSet:
    """The accumulators of a rank.

    New values of a step are staged beside the old ones, since DeepSpeed may skip the step.

    Args:
        shards: this rank's slice of every prunable tensor, in global order.
        declared: what is kept for each weight; nothing after the last mask update.
        device: of the values.

    Attributes:
        declared: as given.
        values: of each shard, the values by name, each `[shard.numel]`.
    """

    def __init__(
        self, shards: Sequence[Shard], declared: Sequence[Accumulator], device: torch.device | str = "cpu"
    ) -> None:
        self.shards, self.declared = tuple(shards), tuple(declared)
        self.values: tuple[dict[str, Tensor], ...] = tuple(
            {kept.name: torch.zeros(shard.numel, dtype=kept.dtype, device=device) for kept in declared}
            for shard in shards
        )
        self._staged: tuple[dict[str, Tensor], ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values on this rank."""
        return sum(value.numel() * value.element_size() for row in self.values for value in row.values())

    @property
    def newest(self) -> tuple[dict[str, Tensor], ...]:
        """The staged values, or else the values."""
        return self.values if self._staged is None else self._staged

    def stage(self, index: int, part: slice, new: Mapping[str, Tensor]) -> None:
        """Note the new values of a part of a shard."""
        if self._staged is None:
            self._staged = tuple({name: value.clone() for name, value in row.items()} for row in self.values)
        for kept in self.declared:
            self._staged[index][kept.name][part] = new[kept.name]

    def settle(self, *, applied: bool) -> None:
        """Keep the staged values if the step was applied, and drop them otherwise."""
        if applied:
            self.values = self.newest
        self._staged = None

    def begin_interval(self) -> None:
        """Begin at zero again, after a mask update, with all that is not kept for the whole run."""
        for row in self.values:
            for kept in self.declared:
                if not kept.whole_run:
                    row[kept.name].zero_()
