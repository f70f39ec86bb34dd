"""The selection in scope `row`: each row of a matrix keeps the same number of weights, its highest scores.

A row has the weights of one output. The rank with the first weight of a row decides the row: the other ranks send keys
and get masks back, as for tiles. If a matrix is stored inputs first, one rank decides the whole matrix.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.masks.bits import unpack_part
from dsprune.masks.cut_bands import CutBands
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.scan import NAN_KEY, PRUNED_KEY, Scorer, keys_of, refuse_nan

__all__ = ["count_rows", "select_rows"]

Compare = Callable[[Tensor, int], Tensor]
"""Compares the zeros of rows with the required number."""


def select_rows(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
) -> list[Tensor]:
    """Select like `dsprune.selection.select`, for groups with rows. Collective: every rank must call this."""
    wanted = _by_place(groups)
    cut = CutBands(shards, [group.band for group in wanted], comm)
    bands = cut.complete([keys_of(scorer, bits) for scorer, bits in zip(scorers, kept, strict=True)])
    problems: list[tuple[int, int]] = []

    def decided() -> Iterator[Tensor]:
        for group, keys, bits in zip(wanted, bands, kept, strict=True):
            mask, *found = _decide(group, keys, bits.device)
            problems.append((found[0], found[1]))
            yield mask

    new = cut.spread(decided())  # one tensor at a time: a boolean mask takes eight times the bytes
    num_nan, num_overfull = comm.all_reduce_sum(torch.tensor(problems)).T.tolist()
    refuse_nan(shards, num_nan)
    _refuse_overfull(wanted, num_overfull)
    return new


def count_rows(
    shards: Sequence[Shard], bits: Sequence[Tensor], groups: Sequence[Group], compare: Compare, comm: Comm
) -> list[int]:
    """Return the number of rows of each tensor for which `compare(zeros, required zeros)` holds.

    Collective: every rank must call this.

    Args:
        shards: one per tensor.
        bits: the packed mask of each.
        groups: groups of one tensor each.
        compare: for example `torch.gt`, to count rows with too many zeros.
        comm: the ranks over which the tensors are sharded.
    """
    wanted = _by_place(groups)
    cut = CutBands(shards, [group.band for group in wanted], comm)
    bands = cut.complete([partial(unpack_part, row) for row in bits])
    counts = [
        sum(int(compare(_num_zeros(_to_rows(group, kept)), _per_row(group)).sum()) for kept in parts)
        for group, parts in zip(wanted, bands, strict=True)
    ]
    return comm.all_reduce_sum(torch.tensor(counts, dtype=torch.int64)).tolist()


def _by_place(groups: Sequence[Group]) -> list[Group]:
    """Return the group of each tensor; each group has one tensor."""
    assert all(len(group.tensors) == 1 for group in groups)
    return sorted(groups, key=lambda group: group.tensors)


def _per_row(group: Group) -> int:
    """Return the number of zeros of a row."""
    assert not group.num_pruned % group.num_rows, group
    return group.num_pruned // group.num_rows


def _to_rows(group: Group, flat: Tensor) -> Tensor:
    """Return the weights of whole bands as `[rows, row]`."""
    return flat.view(-1, group.row, group.interleaved).transpose(1, 2).reshape(-1, group.row)


def _to_flat(group: Group, rows: Tensor) -> Tensor:
    """Undo `_to_rows`."""
    return rows.view(-1, group.interleaved, group.row).transpose(1, 2).reshape(-1)


def _num_zeros(rows: Tensor) -> Tensor:
    return (~rows).sum(1)


def _decide(group: Group, bands: Iterable[Tensor], device: torch.device) -> tuple[Tensor, int, int]:
    """Return the mask of whole bands, the number of NaN scores, and the number of rows with too many zeros."""
    masks, num_nan, num_overfull = [torch.empty(0, dtype=torch.bool, device=device)], 0, 0
    for band in bands:
        keys = _to_rows(group, band)
        num_nan += int((keys == NAN_KEY).sum())
        num_overfull += int((_num_zeros(keys != PRUNED_KEY) > _per_row(group)).sum())
        masks.append(_to_flat(group, _keep_highest(keys, _per_row(group))))
    return torch.cat(masks), num_nan, num_overfull


def _keep_highest(keys: Tensor, num_pruned: int) -> Tensor:
    """Return the mask of each row, `[rows, row]`: its lowest keys are pruned; of equal ones, the first."""
    if num_pruned == 0:
        return torch.ones_like(keys, dtype=torch.bool)
    threshold = keys.kthvalue(num_pruned, dim=1, keepdim=True).values
    below, ties = keys < threshold, keys == threshold
    quota = num_pruned - below.sum(1, keepdim=True)
    return ~(below | ties & (ties.cumsum(1) <= quota))


def _refuse_overfull(groups: Sequence[Group], counts: Sequence[int]) -> None:
    for group, count in zip(groups, counts, strict=True):
        if count:
            raise UserError(
                f"{group.name}: {count:,} of its {group.num_rows:,} rows already have more pruned weights than the "
                f"{_per_row(group):,} of this mask update: raise the sparsity, or start from a denser model"
            )
