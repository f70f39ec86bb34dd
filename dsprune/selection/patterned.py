"""The selection of whole tiles, on any number of ranks.

One rank decides each tile. It gets the keys of the tile's weights on other ranks. The score of a tile is the score of
the weights that it would lose. The exact selection then selects tiles instead of weights, and the rank sends masks back
to the other ranks. Sums have a fixed order, so the mask does not depend on the sharding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dsprune.kernels.product import Product
from dsprune.masks.bits import pack, unpack, unpack_part
from dsprune.masks.cut_bands import CutBands
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.ranks.collectives import Comm
from dsprune.recipe.pattern import Pattern
from dsprune.selection.groups import Group
from dsprune.selection.scan import NAN_KEY, PRUNED_KEY, Scorer, from_keys, keys_of
from dsprune.selection.select import select
from dsprune.selection.tiles import Tiling

__all__ = ["count_broken", "select_tiles"]


class _Rated(NamedTuple):
    """The tiles that a rank decides for in one tensor.

    Attributes:
        scores: float32, of the weights that each tile would lose.
        spared: packed, the weights that each tile would keep, in the order of the flattened tensor.
        whole: packed, the tiles that are not pruned yet.
    """

    scores: Tensor
    spared: Tensor
    whole: Tensor


def select_tiles(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
    pattern: Pattern,
    *,
    squared: bool = False,
) -> list[Tensor]:
    """Return the new packed masks of this rank's shards. Collective: every rank must call this.

    The tiles of a group with the lowest scores are pruned; ties are broken in global order. In a pruned tile, the
    weights with the lowest scores are dropped; of equal scores, the first.

    Args:
        shards: one per tensor.
        scorers: the scores of each shard.
        kept: the packed masks so far, in which each tile is whole or pruned.
        groups: the groups of tensors, with tiles of one size each.
        comm: the ranks over which the tensors are sharded.
        pattern: the pattern of the recipe.
        squared: whether the score of a tile is the root of the sum of squares; otherwise it is the sum.

    Raises:
        UserError: as `select`.
    """
    if pattern.is_unstructured:
        return select(shards, scorers, kept, groups, comm)
    tilings = [Tiling.of(shard.tensor, pattern) for shard in shards]
    cut = CutBands(shards, [tiling.band for tiling in tilings], comm)
    bands = cut.complete([keys_of(scorer, bits) for scorer, bits in zip(scorers, kept, strict=True)])
    rated = [
        _rate_all(tiling, keys, bits.device, squared)
        for tiling, keys, bits in zip(tilings, bands, kept, strict=True)
    ]
    tiles = [_tiles(tiling, shard) for tiling, shard in zip(tilings, shards, strict=True)]
    selected = select(
        tiles,
        [Scorer(row.scores.__getitem__, product=Product(row.scores)) for row in rated],
        [row.whole for row in rated],
        [_in_tiles(group, tilings[group.tensors[0]], pattern.height) for group in groups],
        comm,
    )
    decided = (
        _decide(tiling, row, unpack(bits, shard.numel))
        for tiling, row, bits, shard in zip(tilings, rated, selected, tiles, strict=True)
    )
    return [new & old for new, old in zip(cut.spread(decided), kept, strict=True)]


def count_broken(shards: Sequence[Shard], bits: Sequence[Tensor], pattern: Pattern, comm: Comm) -> list[int]:
    """Return the number of tiles of each tensor that are neither whole nor pruned as the pattern says.

    Collective: every rank must call this.
    """
    if pattern.is_unstructured:
        return [0] * len(shards)
    tilings = [Tiling.of(shard.tensor, pattern) for shard in shards]
    bands = CutBands(shards, [tiling.band for tiling in tilings], comm).complete(
        [partial(unpack_part, row) for row in bits]
    )
    counts = [
        sum(_num_broken(tiling, kept) for kept in parts) for tiling, parts in zip(tilings, bands, strict=True)
    ]
    return comm.all_reduce_sum(torch.tensor(counts, dtype=torch.int64)).tolist()


def _num_broken(tiling: Tiling, kept: Tensor) -> int:
    """Return the number of tiles that are neither whole nor pruned, from the masks of whole bands."""
    num_kept = tiling.to_tiles(kept).sum(1, dtype=torch.int64)
    return int(((num_kept != tiling.size) & (num_kept != tiling.kept)).sum())


def _rate_all(tiling: Tiling, bands: Iterator[Tensor], device: torch.device, squared: bool) -> _Rated:
    """Rate the tiles of whole bands, given their keys."""
    parts = [_rate(tiling, tiling.to_tiles(keys), squared) for keys in bands]
    nothing = torch.empty(0, dtype=torch.bool, device=device)
    scores = torch.cat([nothing.float(), *(part.scores for part in parts)])
    spared, whole = ([part[field] for part in parts] for field in (1, 2))
    return _Rated(scores, pack(torch.cat([nothing, *spared])), pack(torch.cat([nothing, *whole])))


def _rate(tiling: Tiling, keys: Tensor, squared: bool) -> _Rated:
    """Rate tiles, given the keys of their weights, `[tiles, size]`; the masks are not packed."""
    spared = torch.zeros_like(keys, dtype=torch.bool)
    if tiling.kept:
        highest = keys.argsort(dim=1, stable=True)[:, tiling.num_dropped :]
        spared.scatter_(1, highest, True)
    lost = from_keys(keys).double().masked_fill_(spared | (keys == PRUNED_KEY), 0.0)
    scores = _sum(lost.square()).sqrt() if squared else _sum(lost)
    scores = scores.float().masked_fill_((keys == NAN_KEY).any(1), torch.nan)
    whole = (keys != PRUNED_KEY).sum(1) > tiling.kept
    return _Rated(scores, tiling.to_flat(spared), whole)


def _sum(values: Tensor) -> Tensor:
    """Sum each row by halves, in an order that depends only on its length: additions of whole columns."""
    while (length := values.shape[1]) > 1:
        half = length // 2
        added = values[:, :half] + values[:, half : 2 * half]
        values = torch.cat([added, values[:, 2 * half :]], dim=1)
    return values[:, 0]


def _decide(tiling: Tiling, rated: _Rated, kept: Tensor) -> Tensor:
    """Return the masks of whole bands from those of their tiles."""
    numel = kept.numel() * tiling.size
    return unpack(rated.spared, numel) | tiling.to_flat(
        kept.unsqueeze(1).expand(-1, tiling.size).contiguous()
    )


def _tiles(tiling: Tiling, shard: Shard) -> Shard:
    """Return the tiles that a shard's rank decides for, as a shard of a tensor of tiles."""
    bands, per_band = tiling.bands(shard.start, shard.start + shard.numel), tiling.tiles_per_band
    tensor = PrunableTensor(shard.tensor.name, (tiling.num_tiles,))
    return Shard(tensor, min(bands.start * per_band, tiling.num_tiles), len(bands) * per_band)


def _in_tiles(group: Group, tiling: Tiling, height: int) -> Group:
    """Return a group in units of tiles, `height` outputs high, from one in units of weights."""
    assert not group.num_pruned % tiling.num_dropped, group
    return replace(
        group,
        num_weights=group.num_weights // tiling.size,
        num_pruned=group.num_pruned // tiling.num_dropped,
        num_rows=group.num_rows // height or 1,
        interleaved=group.interleaved // height or 1,
    )
