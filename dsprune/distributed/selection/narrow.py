"""Runs a search to its end over keys that lie on several ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.pure.selection.search import Search, histogram
from dsprune.pure.selection.wire import ROUNDS

__all__ = ["narrow"]


def narrow(search: Search, keys: Sequence[Tensor], comm: Comm) -> Search:
    """Narrows every range to one key. Collective: every rank must call this.

    Args:
        search: the ranges, one a group.
        keys: this rank's keys inside each of them.
        comm: the ranks that hold the groups' keys together.
    """
    for _ in range(ROUNDS):
        starts = zip(keys, search.low.tolist(), search.bin_bits.tolist(), strict=True)
        counts = torch.stack([histogram(*start) for start in starts])
        search = search.refine(comm.all_reduce_sum(counts))
    return search
