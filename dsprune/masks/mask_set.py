"""The masks of a rank's shards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.kernels.cpu import kernel_for
from dsprune.masks.bits import count_kept, num_bytes, pack, unpack
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.utils.randomness import hash_text, mix64

__all__ = ["MaskSet", "digest_eager"]

CHUNK = 1 << 20  # weights at a time, a multiple of 8


class MaskSet:
    """The packed masks of a rank, sharded exactly like the weights.

    Attributes:
        shards: this rank's slice of every prunable tensor, in global order.
        bits: the packed mask of each shard, see `dsprune.masks.bits`.
        regrown: the kept weights that were pruned before and grew back, packed like `bits`; empty for a recipe that
            lets none grow back.
    """

    def __init__(
        self, shards: Sequence[Shard], device: torch.device | str = "cpu", *, regrows: bool = False
    ) -> None:
        """Create masks that keep all weights; `regrows` is whether to mark those that grow back."""
        self.shards = tuple(shards)
        self.bits = tuple(pack(torch.ones(shard.numel, dtype=torch.bool, device=device)) for shard in shards)
        self.regrown = tuple(torch.zeros_like(bits) for bits in self.bits) if regrows else ()

    @property
    def tensors(self) -> tuple[PrunableTensor, ...]:
        """The prunable tensors, in global order."""
        return tuple(shard.tensor for shard in self.shards)

    @classmethod
    def from_zeros(cls, shards: Sequence[Shard], weights: Sequence[Tensor]) -> MaskSet:
        """Create masks that prune the zeros (+0.0 and -0.0) in the shards' 1-D weights."""
        masks = cls(shards)
        masks.replace([pack(weight != 0) for weight in weights])
        return masks

    def replace(self, bits: Sequence[Tensor], regrown: Sequence[Tensor] = ()) -> None:
        """Replace the masks by other masks of the same shards; without `regrown`, no weight is marked."""
        for row in (bits, regrown) if regrown else (bits,):
            for shard, new in zip(self.shards, row, strict=True):
                assert new.dtype == torch.uint8, shard
                assert new.shape == (num_bytes(shard.numel),), shard
        if self.regrown:
            self.regrown = tuple(regrown) or tuple(torch.zeros_like(row) for row in bits)
        self.bits = tuple(bits)

    def marks_after(self, bits: Sequence[Tensor]) -> list[Tensor]:
        """Return the marks after other masks replace these: weights that grow back are added to the marked ones.

        A weight that is pruned again loses its mark.
        """
        return [
            (mark | ~old) & new
            for mark, old, new in zip(self.regrown, self.bits, bits, strict=bool(self.regrown))
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the masks and marks on this rank."""
        return sum(bits.numel() for bits in (*self.bits, *self.regrown))

    def num_pruned(self) -> list[int]:
        """Return the number of pruned weights of each shard."""
        return [shard.numel - count_kept(bits) for shard, bits in zip(self.shards, self.bits, strict=True)]

    def counts(self, comm: Comm) -> list[int]:
        """Return the number of pruned weights of each tensor. Collective: every rank must call this."""
        return comm.all_reduce_sum(torch.tensor(self.num_pruned())).tolist()

    def emptied(self, comm: Comm) -> list[str]:
        """Return the names of the tensors without a kept weight. Collective: every rank must call this."""
        kept = comm.all_reduce_sum(torch.stack([row.any() for row in self.bits]).int())
        return [tensor.name for tensor, shards in zip(self.tensors, kept.tolist(), strict=True) if not shards]

    def counts_regrown(self, comm: Comm) -> list[int]:
        """Return the number of marked weights of each tensor. Collective: every rank must call this."""
        if not self.regrown:
            return [0] * len(self.shards)
        return comm.all_reduce_sum(torch.tensor([count_kept(row) for row in self.regrown])).tolist()

    def digest(self, comm: Comm) -> int:
        """Return a hash of the complete masks, independent of the sharding. Collective: every rank must call this.

        It is the sum modulo 2**64 of a hash of (tensor name, flat index) over the pruned weights.
        """
        local = [_digest(shard, bits) for shard, bits in zip(self.shards, self.bits, strict=True)]
        return int(comm.all_reduce_sum(torch.stack(local).sum()))


def _digest(shard: Shard, bits: Tensor) -> Tensor:
    first = shard.start + hash_text(shard.tensor.name)
    kernel = kernel_for(bits)
    if kernel is None:
        return digest_eager(bits, shard.numel, first)
    return torch.tensor(kernel.digest(bits, shard.numel, first))


def digest_eager(bits: Tensor, num_weights: int, first: int) -> Tensor:
    """Return the sum of the hashes of the pruned weights, whose numbers begin at `first`, as an int64 scalar."""
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, num_weights, CHUNK):
        size = min(CHUNK, num_weights - start)
        numbers = torch.arange(start, start + size, device=bits.device) + first
        kept = unpack(bits[start // 8 : num_bytes(start + size)], size)
        total += mix64(numbers).masked_fill_(kept, 0).sum()  # int64 wraps around
    return total.cpu()
