"""The masks of this rank's shards: the record of what is pruned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.masks.bits import count_kept, num_bytes, pack, unpack
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.utils.randomness import hash_text, mix64

__all__ = ["MaskSet"]

CHUNK = 1 << 20  # weights at a time, a multiple of 8


class MaskSet:
    """One packed mask a shard, sharded exactly as the weights are.

    Attributes:
        shards: this rank's slice of every prunable tensor, in global order.
        bits: their masks, see `dsprune.masks.bits`.
    """

    def __init__(self, shards: Sequence[Shard], device: torch.device | str = "cpu") -> None:
        """Starts with all weights kept."""
        self.shards = tuple(shards)
        self.bits = tuple(pack(torch.ones(shard.numel, dtype=torch.bool, device=device)) for shard in shards)

    @classmethod
    def from_zeros(cls, shards: Sequence[Shard], weights: Sequence[Tensor]) -> MaskSet:
        """Prunes what is zero already, +0.0 or -0.0, in the shards' 1-D weights."""
        masks = cls(shards)
        masks.replace([pack(weight != 0) for weight in weights])
        return masks

    def replace(self, bits: Sequence[Tensor]) -> None:
        """Takes over other masks of the same shards."""
        for shard, new in zip(self.shards, bits, strict=True):
            assert new.dtype == torch.uint8, shard
            assert new.shape == (num_bytes(shard.numel),), shard
        self.bits = tuple(bits)

    @property
    def nbytes(self) -> int:
        """Memory that the masks take on this rank."""
        return sum(bits.numel() for bits in self.bits)

    def num_pruned(self) -> list[int]:
        """Number of pruned weights of each shard."""
        return [shard.numel - count_kept(bits) for shard, bits in zip(self.shards, self.bits, strict=True)]

    def counts(self, comm: Comm) -> list[int]:
        """Number of pruned weights of each tensor. Collective: every rank must call this."""
        return comm.all_reduce_sum(torch.tensor(self.num_pruned())).tolist()

    def digest(self, comm: Comm) -> int:
        """A fingerprint of the full masks, whoever owns what. Collective: every rank must call this.

        More precisely: the sum modulo 2**64 of a hash of (tensor name, flat index) over pruned weights.
        """
        local = [_digest(shard, bits) for shard, bits in zip(self.shards, self.bits, strict=True)]
        return int(comm.all_reduce_sum(torch.stack(local).sum()))

    def state(self) -> dict[str, dict[str, int | Tensor]]:
        """What a checkpoint keeps: the place and the mask of every shard, by the name of its tensor."""
        return {
            shard.tensor.name: {"start": shard.start, "numel": shard.numel, "bits": bits}
            for shard, bits in zip(self.shards, self.bits, strict=True)
        }


def _digest(shard: Shard, bits: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.int64)
    salt = hash_text(shard.tensor.name)
    for start in range(0, shard.numel, CHUNK):
        size = min(CHUNK, shard.numel - start)
        packed = bits[start // 8 : num_bytes(start + size)]
        pruned = (~unpack(packed, size)).nonzero().view(-1)
        total += mix64(pruned + (shard.start + start + salt)).sum().cpu()  # int64 wraps around
    return total
