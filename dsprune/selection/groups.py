"""The scope of pruning: which weights are ranked together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from dsprune.errors import UserError
from dsprune.model.shard import PrunableTensor
from dsprune.recipe import Pruning
from dsprune.recipe.pattern import UNSTRUCTURED, Pattern, matrix_shape
from dsprune.registry import SCOPES
from dsprune.selection.erk import divide_kept
from dsprune.selection.tiles import grid_of

__all__ = ["ERK", "GLOBAL", "NORMALIZED", "ROW", "UNIFORM", "Group", "Scope", "make_groups", "update_groups"]


class Scope(NamedTuple):
    """Which weights are ranked together.

    Attributes:
        per_tensor: whether each tensor is a group; otherwise tensors with the same target form a group.
        normalized: whether scores are divided by the root mean square of their tensor's scores.
        by_shape: whether tensors with the same target divide their zeros by their shapes.
        by_row: whether all rows of a tensor get the same number of zeros.
    """

    per_tensor: bool = False
    normalized: bool = False
    by_shape: bool = False
    by_row: bool = False


Grid = tuple[int, ...]

GLOBAL, UNIFORM, NORMALIZED = Scope(), Scope(per_tensor=True), Scope(normalized=True)
ERK = Scope(per_tensor=True, by_shape=True)
ROW = Scope(per_tensor=True, by_row=True)


@dataclass(frozen=True)
class Group:
    """Tensors whose weights are ranked together.

    Attributes:
        name: name of the group in messages.
        tensors: places of its tensors in the global order, ascending.
        num_weights: number of their weights.
        num_pruned: number of zeros after the mask update.
        num_rows: number of rows of its only tensor, if rows are ranked separately: each row, the weights of an output,
            gets an equal part of the zeros. Otherwise 1.
        interleaved: number of rows that alternate in the flattened tensor, if it is stored inputs first; 1 if a row has
            consecutive weights.
    """

    name: str
    tensors: tuple[int, ...]
    num_weights: int
    num_pruned: int
    num_rows: int = 1
    interleaved: int = 1

    @property
    def row(self) -> int:
        """Number of weights of a row."""
        return self.num_weights // self.num_rows

    @property
    def band(self) -> int:
        """Number of weights in the shortest range of the flattened tensor that holds whole rows."""
        return self.row * self.interleaved

    def rounded(self, number: float) -> int:
        """Round a number of weights to a multiple of the number of rows."""
        return self.num_rows * round(number / self.num_rows)

    @property
    def stride(self) -> int:
        """Distance of the weights in a sample. With it, a bracket has two or three times as many keys as the sample.

        It is odd, so that the sample covers many columns of matrices, whose widths contain large powers of two.
        """
        return int(round(self.num_weights ** (1 / 3) / 2) | 1)

    @property
    def sample_size(self) -> int:
        """Number of weights in a sample."""
        return -(-self.num_weights // self.stride)


def update_groups(tensors: Sequence[PrunableTensor], pruning: Pruning, progress: float) -> list[Group]:
    """Return the groups of a mask update, whose sparsity is `progress` times the target of each tensor.

    Raises:
        UserError: a group would keep no weight, or the pattern does not fit a tensor.
    """
    pattern = Pattern.parse(pruning.pattern)
    targets = [pruning.sparsity if tensor.sparsity is None else tensor.sparsity for tensor in tensors]
    groups = make_groups(tensors, [progress * target for target in targets], pruning.scope, pattern)
    if empty := next((group for group in groups if group.num_pruned == group.num_weights > 0), None):
        target = max(targets[place] for place in empty.tensors)
        raise UserError(
            f"pruning: a sparsity of {target} leaves none of the {empty.num_weights:,} weights of {empty.name}: lower "
            f"it, or exclude them"
        )
    return groups


def make_groups(
    tensors: Sequence[PrunableTensor],
    sparsities: Sequence[float],
    scope: str = "global",
    pattern: Pattern = UNSTRUCTURED,
) -> list[Group]:
    """Group tensors of the same sparsity; in scopes per tensor, each tensor is a group.

    A group gets exactly `round(sparsity * num_weights)` zeros. In scope `erk` this is
    the sum over all tensors of the same sparsity. In scope `row` each row of a tensor gets `round(sparsity * columns)`.
    With a pattern, a group has tiles of one size, and the number of them that are pruned is rounded.

    Args:
        tensors: all prunable tensors, in the global order.
        sparsities: fraction of zeros of each tensor.
        scope: name in the registry of scopes.
        pattern: the pattern of the recipe.

    Raises:
        UserError: the pattern does not fit a tensor, or a tensor has no rows for the scope `row`.
    """
    grids = [grid_of(tensor, pattern) for tensor in tensors]
    sizes = [prod(pattern.tile(tensor.shape, tensor.inputs_first)) for tensor in tensors]
    rules = SCOPES.get(scope)
    members: dict[object, list[int]] = {}
    for place, sparsity in enumerate(sparsities):
        alone = rules.per_tensor and not rules.by_shape
        members.setdefault(place if alone else (sparsity, sizes[place]), []).append(place)
    found = []
    for places in members.values():
        size, fraction = sizes[places[0]], min(1.0, sparsities[places[0]] / pattern.sparsity)
        num_rows, interleaved = _rows(tensors[places[0]]) if rules.by_row else (1, 1)
        whole = _make_group(tensors, grids, places, fraction, num_rows // pattern.height or 1)
        parts = _by_shape(tensors, grids, whole) if rules.by_shape else [whole]
        found += [
            replace(
                part,
                num_weights=size * part.num_weights,
                num_pruned=(size - pattern.kept) * part.num_pruned,
                num_rows=num_rows,
                interleaved=interleaved,
            )
            for part in parts
        ]
    return found


def _make_group(
    tensors: Sequence[PrunableTensor],
    grids: Sequence[Grid],
    places: Sequence[int],
    fraction: float,
    num_rows: int,
) -> Group:
    """Return a group in units of tiles; each row of tiles loses the same fraction."""
    first = tensors[places[0]].name
    name = first if len(places) == 1 else f"{first} and {len(places) - 1} more"
    num_tiles = sum(prod(grids[place]) for place in places)
    num_pruned = num_rows * round(fraction * (num_tiles // num_rows))
    return Group(name, tuple(places), num_tiles, num_pruned)


def _rows(tensor: PrunableTensor) -> tuple[int, int]:
    """Return the number of rows of a tensor, and the number of rows that alternate in the flattened tensor."""
    shape = tensor.shape if tensor.inputs_first else matrix_shape(tensor.shape)
    if len(shape) < 2:
        raise UserError(
            f"pruning.scope: value row: {tensor.name} of shape {list(tensor.shape)} is not a matrix, so it has no "
            f"rows: choose another scope, or leave it out with pruning.exclude"
        )
    *stack, before, last = shape
    return (prod(stack) * last, last) if tensor.inputs_first else (prod(stack) * before, 1)


def _by_shape(tensors: Sequence[PrunableTensor], grids: Sequence[Grid], group: Group) -> Iterator[Group]:
    """Yield a group for each tensor of a group, with its part of the zeros, in units of tiles."""
    num_kept = divide_kept([grids[place] for place in group.tensors], group.num_weights - group.num_pruned)
    for place, kept in zip(group.tensors, num_kept, strict=True):
        num_tiles = prod(grids[place])
        yield Group(tensors[place].name, (place,), num_tiles, num_tiles - kept)
