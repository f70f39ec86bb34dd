"""The oracle of patterns: the selection of whole tiles in one process, tile by tile."""

from collections.abc import Iterator, Sequence
from math import fsum, sqrt

import torch
from torch import Tensor

from dsprune.model.shard import PrunableTensor
from dsprune.recipe.pattern import Pattern
from dsprune.selection.groups import Group

__all__ = ["select_dense_tiles", "tiles_of"]


def tiles_of(tensor: PrunableTensor, pattern: Pattern) -> Iterator[list[int]]:
    """Yield the flat indices of the weights of each tile, in the order of the tiles' first weights."""
    columns = next(size for size in reversed(tensor.shape) if size > 1)
    rows, height, width = tensor.numel // columns, pattern.height, pattern.width or columns
    if tensor.inputs_first:
        height, width = pattern.width or tensor.shape[-2], pattern.height
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield [
                row * columns + column
                for row in range(top, top + height)
                for column in range(left, left + width)
            ]


def select_dense_tiles(
    tensors: Sequence[PrunableTensor],
    scores: Sequence[Tensor],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    text: str,
    *,
    squared: bool = False,
) -> list[Tensor]:
    """Return the new boolean masks by a sort of all tiles of a group, or of a row, by the scores that they would lose.

    Args:
        tensors: the tensors.
        scores: by tensor, flat; the lowest are pruned.
        kept: the present masks, in which each tile is whole or pruned.
        groups: the groups of tensors, with their numbers of zeros.
        text: the pattern.
        squared: whether the score of a tile is the root of the sum of squares; otherwise it is the sum.
    """
    pattern, new = Pattern.parse(text), [mask.clone() for mask in kept]
    for group in groups:
        candidates, num_dropped = [], 1
        for place in group.tensors:
            values = scores[place].tolist()
            for tile in tiles_of(tensors[place], pattern):
                num_dropped = len(tile) - pattern.kept
                lowest = sorted(tile, key=values.__getitem__)[:num_dropped]
                lost = [values[index] for index in lowest]
                score = sqrt(fsum(x * x for x in lost)) if squared else fsum(lost)
                is_whole = bool(kept[place][tile].all())
                candidates.append((is_whole, float(torch.tensor(score)), place, lowest))
        num_rows, across = (number // pattern.height or 1 for number in (group.num_rows, group.interleaved))
        band = len(candidates) // num_rows * across
        for first in (
            start + column for start in range(0, len(candidates), band) for column in range(across)
        ):
            last = first // band * band + band
            row = sorted(candidates[first:last:across], key=lambda candidate: candidate[:2])  # stable
            for is_whole, _, place, lowest in row[: group.num_pruned // num_dropped // num_rows]:
                if is_whole:
                    new[place][lowest] = False
    return new
