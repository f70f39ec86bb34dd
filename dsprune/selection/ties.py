"""Divide the ties with a group's threshold among the shards, in global order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group

__all__ = ["share_ties"]


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], quotas: Tensor, comm: Comm
) -> list[int]:
    """Return the number of ties that each of this rank's shards prunes. Collective: every rank must call this.

    Each group prunes its first `quota` ties in global order: the order of the tensors, then of the flat index.
    The shards of a tensor may be on the ranks in any order.

    Args:
        shards: this rank's shards, one per tensor.
        num_ties: number of keys in each shard that are equal to the threshold of its group.
        groups: the groups of tensors.
        quotas: number of ties to prune in each group.
        comm: the ranks over which the tensors are sharded.
    """
    own = torch.tensor([(shard.start, ties) for shard, ties in zip(shards, num_ties, strict=True)])
    starts, ties = comm.all_gather(own).unbind(-1)  # [ranks, tensors] each
    order = starts.argsort(dim=0, stable=True)
    ties_in_order = ties.gather(0, order)
    shares = torch.zeros_like(ties)
    for group, quota in zip(groups, quotas, strict=True):
        columns = torch.tensor(group.tensors)
        ordered = ties_in_order[:, columns].T  # [tensors, ranks], which is the global order when flattened
        before = (ordered.flatten().cumsum(0) - ordered.flatten()).view_as(ordered)
        shares[:, columns] = (quota - before).clamp(min=0).minimum(ordered).T
    ranks = order.argsort(dim=0)[comm.rank]  # where this rank's shards are in the order of starts
    return shares.gather(0, ranks.unsqueeze(0)).squeeze(0).tolist()
