"""Runs a search to its end over keys that lie on several ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.pure.selection.search import Search
from dsprune.pure.selection.wire import BINS, ROUNDS

__all__ = ["narrow"]


def narrow(
    search: Search, keys: Sequence[Tensor], group_of: Sequence[int], comm: Comm
) -> tuple[Search, list[Tensor]]:
    """Narrows every range to one key. Collective: every rank must call this.

    Args:
        search: the ranges, one a group.
        keys: this rank's keys inside them; any number of tensors.
        group_of: the group of each of these tensors.
        comm: the ranks that hold the groups' keys together.

    Returns:
        The finished search, and of each tensor the keys that equal the one found.
    """
    inside = list(keys)
    for _ in range(ROUNDS):
        histograms = torch.zeros(len(search.target), BINS, dtype=torch.int64)
        for shard_keys, group in zip(inside, group_of, strict=True):
            histograms[group] += search.histogram(shard_keys, group).cpu()
        search = search.refine(comm.all_reduce_sum(histograms))
        inside = [search.filter(some, group) for some, group in zip(inside, group_of, strict=True)]
    return search, inside
