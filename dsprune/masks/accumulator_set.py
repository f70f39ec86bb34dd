"""What a pruning method keeps of a rank's shards, sharded exactly as the masks are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from dsprune.kernels.block_products import products
from dsprune.masks.input_sums import InputSums
from dsprune.masks.shared_blocks import Piece, SharedBlocks
from dsprune.methods.method import Accumulator
from dsprune.model.shard import Shard

__all__ = ["AccumulatorSet"]

CHUNK = 1 << 15  # numbers at a time: temporaries stay in the cache, and small ones cost no page faults
CHUNK_ACCELERATOR = 1 << 24


class AccumulatorSet:
    """The accumulators of a rank.

    What a step adds is staged, since DeepSpeed may skip the step. The buffers for it are kept from step to step.

    Args:
        shards: this rank's slice of every prunable tensor, in global order.
        declared: what is kept for each weight; nothing after the last mask update.
        device: of the values.
        shared_blocks: the blocks that ranks share, for accumulators of products; it has their block.
        inputs: what is kept of the inputs of matrices, if anything is.

    Attributes:
        values: of each shard, the values by name, each `[shard.numel]` or `[shard.numel, width]`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        declared: Sequence[Accumulator],
        device: torch.device | str = "cpu",
        shared_blocks: SharedBlocks | None = None,
        inputs: InputSums | None = None,
    ) -> None:
        self.inputs = inputs
        self.shards, self.declared, self._shared_blocks = tuple(shards), tuple(declared), shared_blocks
        self._device = torch.device(device)
        self.values: tuple[dict[str, Tensor], ...] = tuple(
            {
                kept.name: torch.zeros(kept.shape(shard.numel), dtype=kept.dtype, device=device)
                for kept in declared
            }
            for shard in shards
        )
        self._buffers: list[dict[str, Tensor]] = []
        self._tables: dict[str, Tensor] = {}
        self._is_staged = False

    @property
    def _chunk(self) -> int:
        return CHUNK if self._device.type == "cpu" else CHUNK_ACCELERATOR

    @property
    def nbytes(self) -> int:
        """Bytes of the values on this rank."""
        inputs = () if self.inputs is None else self.inputs.values
        values = [*inputs, *(value for row in self.values for value in row.values())]
        return sum(value.numel() * value.element_size() for value in values)

    def parts(self, index: int) -> Iterator[slice]:
        """Yield the parts of a shard that are staged one after another."""
        numel = self.shards[index].numel
        for start in range(0, numel, self._chunk):
            yield slice(start, min(start + self._chunk, numel))

    def stage(self, index: int, part: slice, increments: Mapping[str, Tensor]) -> None:
        """Note what a step adds to a part of a shard; each step stages all parts."""
        for kept in self.declared:
            buffer, increment = self._staged(index, kept.name)[part], increments[kept.name]
            if kept.block == 1:
                torch.add(self.values[index][kept.name][part], increment, out=buffer)
            else:
                buffer.copy_(increment)

    def finish_staging(self) -> None:
        """Complete what is staged with that of other ranks. Collective: every rank must call this."""
        self._is_staged = True
        for name in [kept.name for kept in self.declared if kept.block > 1]:
            self._tables[name] = self.shared_blocks.exchange(partial(self._staged, name=name))

    def newest(self, index: int) -> dict[str, Tensor]:
        """Return the values of a shard with what is staged, except for products."""
        return {kept.name: self._newest(index, kept.name) for kept in self.declared if kept.block == 1}

    def tables(self) -> dict[str, Tensor]:
        """Return the values of the shared blocks, for `newest_of`. Collective: every rank must call this."""

        def values(kept: Accumulator) -> Callable[[int], Tensor]:
            if kept.block == 1:
                return lambda place: self._newest(place, kept.name)
            return lambda place: self.values[place][kept.name]

        return {
            kept.name: self.shared_blocks.exchange(values(kept), kept.shape(1)[1:]) for kept in self.declared
        }

    def newest_of(self, index: int, piece: Piece, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of a piece with what is staged, the products too, given the result of `tables`."""
        found = {}
        for kept in self.declared:
            own = self._newest(index, kept.name) if kept.block == 1 else self.values[index][kept.name]
            found[kept.name] = piece.complete(own, tables[kept.name])
            if kept.block > 1 and self._is_staged:
                found[kept.name] = found[kept.name] + self._products(index, kept, piece)
        return found

    def settle(self, *, applied: bool) -> None:
        """Add what is staged if the step was applied, and drop it otherwise."""
        if self.inputs is not None:
            self.inputs.settle(applied=applied)
        if applied and self._is_staged:
            for index in range(len(self.shards)):
                for kept in self.declared:
                    self._add(index, kept)
        self._is_staged = False

    def begin_interval(self) -> None:
        """Begin at zero again, after a mask update, with all that is not kept for the whole run."""
        if self.inputs is not None:
            self.inputs.begin_interval()
        for row in self.values:
            for kept in self.declared:
                if not kept.whole_run:
                    row[kept.name].zero_()

    @property
    def shared_blocks(self) -> SharedBlocks:
        """The blocks that ranks share, which products need."""
        assert self._shared_blocks is not None
        return self._shared_blocks

    def _newest(self, index: int, name: str) -> Tensor:
        return self._staged(index, name) if self._is_staged else self.values[index][name]

    def _staged(self, index: int, name: str) -> Tensor:
        if not self._buffers:  # a run that accumulates nothing more needs none
            dtypes = {kept.name: kept.dtype if kept.block == 1 else torch.float32 for kept in self.declared}
            self._buffers = [
                {name: torch.zeros(shard.numel, dtype=dtypes[name], device=self._device) for name in dtypes}
                for shard in self.shards
            ]
        return self._buffers[index][name]

    def _add(self, index: int, kept: Accumulator) -> None:
        values, buffers = self.values[index], self._buffers[index]
        if kept.block == 1:
            values[kept.name], buffers[kept.name] = buffers[kept.name], values[kept.name]
            return
        for piece in self.shared_blocks.pieces(index, self._chunk // kept.width):
            values[kept.name][piece.here] += self._products(index, kept, piece)[piece.mine]

    def _products(self, index: int, kept: Accumulator, piece: Piece) -> Tensor:
        return products(piece.complete(self._staged(index, kept.name), self._tables[kept.name]), kept.block)
