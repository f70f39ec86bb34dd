"""Accumulators of a method that reads inputs: the sum of squares of each input of a matrix, over steps and ranks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.shard import PrunableTensor, Shard

__all__ = ["InputSums", "input_bytes"]

SHOWN = 5
"""Names in a message."""


def input_bytes(tensors: Iterable[PrunableTensor]) -> int:
    """Return the bytes of the sums of some matrices, which every rank keeps, and sends at each counted step."""
    return 8 * sum(tensor.num_inputs for tensor in tensors)


class InputSums:
    """The sums, the same on every rank. The additions of a step are staged, because DeepSpeed may skip the step.

    Args:
        tensors: the matrices, in global order.

    Attributes:
        shards: the inputs of each matrix as a tensor, for files.
        values: the sums of each matrix, float64, `[inputs]`.
    """

    def __init__(self, tensors: Sequence[PrunableTensor]) -> None:
        sizes = [tensor.num_inputs for tensor in tensors]
        inputs = [
            PrunableTensor(f"inputs/{tensor.name}", (size,))
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        self.shards = tuple(Shard(tensor, 0, tensor.numel) for tensor in inputs)
        self._tensors, self._sizes = tuple(tensors), sizes
        self._all = torch.zeros(sum(sizes), dtype=torch.float64)
        self._staged: Tensor | None = None

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The sums of each matrix, as views."""
        parts: tuple[Tensor, ...] = self._all.split(self._sizes)
        return parts

    def stage(self, added: Tensor) -> None:
        """Stage the additions of a step, over all ranks."""
        self._staged = self._all + added

    def settle(self, *, applied: bool) -> None:
        """Add the staged values if the step was applied; drop them otherwise."""
        if applied and self._staged is not None:
            self._all = self._staged
        self._staged = None

    def begin_interval(self) -> None:
        """Reset to zero, after a mask update."""
        self._all.zero_()

    def norms(self, method: str) -> list[Tensor]:
        """Return the norms of the inputs of each matrix, staged values included, float32; messages name the method.

        Raises:
            UserError: a matrix had no input.
        """
        newest = self._all if self._staged is None else self._staged
        found = [squares.sqrt().float() for squares in newest.split(self._sizes)]
        unseen = [tensor.name for tensor, norms in zip(self._tensors, found, strict=True) if not norms.any()]
        if unseen:
            names = ", ".join(unseen[:SHOWN])
            names += f" and {len(unseen) - SHOWN} more" if len(unseen) > SHOWN else ""
            raise UserError(
                f"pruning.method: value {method}: no input was seen of {names} in the steps that count for this mask "
                f"update: let more steps count with pruning.window or pruning.start, or leave them out with "
                f"pruning.exclude"
            )
        return found
