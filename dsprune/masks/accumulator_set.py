"""The accumulators of a pruning method, sharded exactly like the masks."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dsprune.kernels.block_products import products
from dsprune.masks.cut_bands import CutBands, slices_of
from dsprune.masks.input_sums import InputSums
from dsprune.methods.method import Accumulator
from dsprune.model.shard import Shard

__all__ = ["AccumulatorSet"]

CHUNK = 1 << 15  # numbers at a time: temporaries stay in the cache and cost no page faults
CHUNK_ACCELERATOR = 1 << 24


class AccumulatorSet:
    """The accumulators of a rank.

    The additions of a step are staged, because DeepSpeed may skip the step. Their buffers are reused.

    Args:
        shards: this rank's slice of every prunable tensor, in global order.
        declared: the accumulators; empty after the last mask update.
        device: device of the values.
        cut_blocks: completes the blocks that ranks share, for accumulators of products.
        inputs: the sums over the inputs of matrices; None if the method reads no inputs.

    Attributes:
        device: as given.
        values: for each shard, the values by name, each `[shard.numel]` or `[shard.numel, width]`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        declared: Sequence[Accumulator],
        device: torch.device | str = "cpu",
        cut_blocks: CutBands | None = None,
        inputs: InputSums | None = None,
    ) -> None:
        self.inputs = inputs
        self.shards, self.declared, self._cut_blocks = tuple(shards), tuple(declared), cut_blocks
        self.device = torch.device(device)
        self.values: tuple[dict[str, Tensor], ...] = tuple(
            {
                kept.name: torch.zeros(kept.shape(shard.numel), dtype=kept.dtype, device=device)
                for kept in declared
            }
            for shard in shards
        )
        self._buffers: list[dict[str, Tensor]] = []
        # By accumulator: the values that complete the last block of each shard, and the products of the weights at its
        # start whose block begins on another rank.
        self._tails: dict[str, list[Tensor]] = {}
        self._heads: dict[str, list[Tensor]] = {}
        self._is_staged = False

    @property
    def _chunk(self) -> int:
        return CHUNK if self.device.type == "cpu" else CHUNK_ACCELERATOR

    @property
    def nbytes(self) -> int:
        """Bytes of the values on this rank."""
        inputs = () if self.inputs is None else self.inputs.values
        values = [*inputs, *(value for row in self.values for value in row.values())]
        return sum(value.numel() * value.element_size() for value in values)

    def parts(self, index: int) -> Iterator[slice]:
        """Yield the parts of a shard, which are staged one at a time."""
        numel = self.shards[index].numel
        for start in range(0, numel, self._chunk):
            yield slice(start, min(start + self._chunk, numel))

    def stage(self, index: int, part: slice, increments: Mapping[str, Tensor]) -> None:
        """Stage the additions of a step to a part of a shard; each step stages all parts."""
        for kept in self.declared:
            buffer, increment = self._staged(index, kept.name)[part], increments[kept.name]
            if kept.block == 1:
                torch.add(self.values[index][kept.name][part], increment, out=buffer)
            else:
                buffer.copy_(increment)

    def finish_staging(self) -> None:
        """Complete the staged values with those of other ranks. Collective: every rank must call this."""
        self._is_staged = True
        for kept in self.declared:
            if kept.block > 1:
                staged = [self._staged(index, kept.name) for index in range(len(self.shards))]
                cut = self.cut_blocks
                tails = cut.collect([row[:head] for row, head in zip(staged, cut.heads, strict=True)])
                rows = [self._products_of_tail(index, kept, tail) for index, tail in enumerate(tails)]
                self._tails[kept.name], self._heads[kept.name] = tails, cut.give_back(rows)

    def _products_of_tail(self, index: int, kept: Accumulator, tail: Tensor) -> Tensor:
        """Return the products of the weights after the end of a shard that complete its last block."""
        if not len(tail):
            return tail.new_zeros(0, kept.width)
        shard = self.shards[index]
        begin = (shard.start + shard.numel) // kept.block * kept.block - shard.start
        own = self._staged(index, kept.name)[begin:]
        return products(torch.cat([own, tail]), kept.block)[len(own) :]

    def newest(self, index: int) -> dict[str, Tensor]:
        """Return the values of a shard, staged ones included, except for products."""
        return {kept.name: self._newest(index, kept.name) for kept in self.declared if kept.block == 1}

    def newest_of_blocks(self, chunk: int) -> list[Iterator[dict[str, Tensor]]]:
        """Return the values of the blocks that begin in each shard, staged ones included, some blocks at a time.

        Collective: every rank must call this.
        """
        names = [kept.name for kept in self.declared]
        rows = zip(*(self._newest_of_blocks(kept, chunk) for kept in self.declared), strict=True)
        return [(dict(zip(names, values, strict=True)) for values in zip(*row, strict=True)) for row in rows]

    def _newest_of_blocks(self, kept: Accumulator, chunk: int) -> list[Iterator[Tensor]]:
        sums = [row[kept.name] for row in self.values]
        if kept.block == 1:
            sums = [self._newest(index, kept.name) for index in range(len(self.shards))]
        found = self.cut_blocks.complete([slices_of(row) for row in sums], chunk)
        if kept.block == 1 or not self._is_staged:
            return found
        return [
            map(torch.add, found[index], self._staged_products(index, kept, chunk))
            for index in range(len(self.shards))
        ]

    def _staged_products(self, index: int, kept: Accumulator, chunk: int) -> Iterator[Tensor]:
        """Yield the staged products of the blocks that begin in a shard, some blocks at a time."""
        staged, tail = slices_of(self._staged(index, kept.name)), self._tails[kept.name][index]
        for whole in self.cut_blocks.whole(index, staged, tail, chunk):
            yield products(whole, kept.block)

    def settle(self, *, applied: bool) -> None:
        """Add the staged values if the step was applied; drop them otherwise."""
        if self.inputs is not None:
            self.inputs.settle(applied=applied)
        if applied and self._is_staged:
            for index in range(len(self.shards)):
                for kept in self.declared:
                    self._add(index, kept)
        self._is_staged = False

    def begin_interval(self) -> None:
        """Reset to zero, after a mask update, all accumulators that are not kept for the whole run."""
        if self.inputs is not None:
            self.inputs.begin_interval()
        for row in self.values:
            for kept in self.declared:
                if not kept.whole_run:
                    row[kept.name].zero_()

    @property
    def cut_blocks(self) -> CutBands:
        """Completes the blocks that ranks share, for a method with a `block`."""
        assert self._cut_blocks is not None
        return self._cut_blocks

    def _newest(self, index: int, name: str) -> Tensor:
        return self._staged(index, name) if self._is_staged else self.values[index][name]

    def _staged(self, index: int, name: str) -> Tensor:
        if not self._buffers:  # not needed after the last mask update
            dtypes = {kept.name: kept.dtype if kept.block == 1 else torch.float32 for kept in self.declared}
            self._buffers = [
                {name: torch.zeros(shard.numel, dtype=dtypes[name], device=self.device) for name in dtypes}
                for shard in self.shards
            ]
        return self._buffers[index][name]

    def _add(self, index: int, kept: Accumulator) -> None:
        values, staged = self.values[index], self._staged(index, kept.name)
        if kept.block == 1:
            values[kept.name], self._buffers[index][kept.name] = staged, values[kept.name]
            return
        place = self.cut_blocks.heads[index]
        values[kept.name][:place] += self._heads[kept.name][index]
        for added in self._staged_products(index, kept, self._chunk // kept.width):
            own = values[kept.name][place : place + len(added)]
            own += added[: len(own)]
            place += len(added)
