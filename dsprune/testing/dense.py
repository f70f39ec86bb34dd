"""The selection on whole tensors in one process, the oracle of the distributed one; and tensors cut into shards."""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from dsprune.masks.bits import pack, unpack
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.selection.groups import Group


def select_dense(scores: Sequence[Tensor], kept: Sequence[Tensor], groups: Sequence[Group]) -> list[Tensor]:
    """Return the new boolean masks: a stable sort of all weights of a group, already pruned weights first.

    Args:
        scores: by tensor, flat; the lowest are pruned.
        kept: the present masks, True = kept.
        groups: the weights that compete, and how many of them are to be pruned.
    """
    new = [torch.ones_like(mask) for mask in kept]
    for group in groups:
        values = torch.cat([scores[place].double() for place in group.tensors])
        alive = torch.cat([kept[place] for place in group.tensors])
        order = values.argsort(stable=True)
        order = torch.cat([order[~alive[order]], order[alive[order]]])
        mask = torch.ones_like(alive)
        mask[order[: group.num_pruned]] = False
        sizes = [scores[place].numel() for place in group.tensors]
        for place, part in zip(group.tensors, mask.split(sizes), strict=True):
            new[place] = part
    return new


def cut_randomly(tensors: Sequence[PrunableTensor], world: int, seed: int) -> list[list[Shard]]:
    """Return the shards of each rank: cut at any element, given to ranks out of order, some of them empty."""
    random = Random(seed)
    ranks: list[list[Shard]] = [[] for _ in range(world)]
    for tensor in tensors:
        cuts = sorted(
            random.choice([0, tensor.numel, random.randint(0, tensor.numel)]) for _ in range(world - 1)
        )
        owners = random.sample(range(world), world)
        for owner, start, stop in zip(owners, [0, *cuts], [*cuts, tensor.numel], strict=True):
            ranks[owner].append(Shard(tensor, start, stop - start))
    return ranks


def part_of(full: Tensor, shard: Shard) -> Tensor:
    """Return the part of a whole flat tensor that a shard holds."""
    return full[shard.start : shard.start + shard.numel]


def packed_parts(full: Sequence[Tensor], shards: Sequence[Shard]) -> list[Tensor]:
    """Return the packed masks of shards from whole boolean masks."""
    return [pack(part_of(mask, shard)) for mask, shard in zip(full, shards, strict=True)]


def join(ranks: Sequence[Sequence[Shard]], bits: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the whole boolean masks from the packed ones of every rank's shards."""
    full = [torch.zeros(shard.tensor.numel, dtype=torch.bool) for shard in ranks[0]]
    for shards, masks in zip(ranks, bits, strict=True):
        for place, (shard, mask) in enumerate(zip(shards, masks, strict=True)):
            part_of(full[place], shard).copy_(unpack(mask, shard.numel))
    return full
