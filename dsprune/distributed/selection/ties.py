"""Shares out the weights whose score equals the threshold, in global order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.pure.selection.groups import Group
from dsprune.pure.shard import Shard

__all__ = ["share_ties"]


def share_ties(
    shards: Sequence[Shard], num_ties: Sequence[int], groups: Sequence[Group], quotas: Tensor, comm: Comm
) -> list[int]:
    """Returns how many ties each of this rank's shards prunes, so that a group prunes its first `quota` ones.

    Global order is the order of the tensors, then of the flat index. A tensor's shards may lie on ranks in
    any order. Collective: every rank must call this.
    """
    own = torch.tensor([(shard.start, ties) for shard, ties in zip(shards, num_ties, strict=True)])
    starts, ties = comm.all_gather(own).unbind(-1)  # [ranks, tensors] each
    order = starts.argsort(dim=0, stable=True)
    ties_in_order = ties.gather(0, order)
    shares = torch.zeros_like(ties)
    for group, quota in zip(groups, quotas, strict=True):
        columns = torch.tensor(group.tensors)
        ordered = ties_in_order[:, columns].T  # [tensors, ranks]: reads in global order
        before = (ordered.flatten().cumsum(0) - ordered.flatten()).view_as(ordered)
        shares[:, columns] = (quota - before).clamp(min=0).minimum(ordered).T
    ranks = order.argsort(dim=0)[comm.rank]  # where this rank's shards came in the order of starts
    return shares.gather(0, ranks.unsqueeze(0)).squeeze(0).tolist()
