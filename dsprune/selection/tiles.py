"""The tiles of a pattern in a flattened tensor.

A band is the shortest range of the flattened tensor that holds whole tiles: one tile if tiles are one row high,
otherwise all tiles of some rows. Bands are consecutive, so a boundary between two shards cuts at most one.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.shard import PrunableTensor
from dsprune.recipe.pattern import Pattern

__all__ = ["Tiling", "grid_of"]


def grid_of(tensor: PrunableTensor, pattern: Pattern) -> tuple[int, ...]:
    """Return the shape of the tiles of a tensor.

    Raises:
        UserError: they do not cover the tensor exactly.
    """
    try:
        return pattern.grid(tensor.shape, tensor.inputs_first)
    except ValueError as error:
        raise UserError(
            f"pruning.pattern: value {pattern.text}: {tensor.name} of shape {list(tensor.shape)}: {error}: choose "
            f"another pattern, or leave it out with pruning.exclude"
        ) from None


@dataclass(frozen=True)
class Tiling:
    """The tiles of a tensor, numbered by their first weights.

    Attributes:
        height: rows of a tile, as the tensor is stored.
        width: columns of a tile.
        kept: number of weights that a pruned tile keeps.
        tiles_per_band: number of tiles of a band.
        num_tiles: number of tiles of the tensor.
    """

    height: int
    width: int
    kept: int
    tiles_per_band: int
    num_tiles: int

    @classmethod
    def of(cls, tensor: PrunableTensor, pattern: Pattern) -> "Tiling":
        """Cut a tensor into tiles.

        Raises:
            UserError: they do not cover the tensor exactly.
        """
        grid = grid_of(tensor, pattern)
        height, width = pattern.tile(tensor.shape, tensor.inputs_first)
        return cls(height, width, pattern.kept, 1 if height == 1 else grid[-1], prod(grid))

    @property
    def size(self) -> int:
        """Number of weights of a tile."""
        return self.height * self.width

    @property
    def num_dropped(self) -> int:
        """Number of weights that a pruned tile loses."""
        return self.size - self.kept

    @property
    def band(self) -> int:
        """Number of weights of a band."""
        return self.size * self.tiles_per_band

    def bands(self, start: int, stop: int) -> range:
        """Return the bands whose first weight lies in `[start, stop)`."""
        return range(-(-start // self.band), -(-stop // self.band))

    def to_tiles(self, flat: Tensor) -> Tensor:
        """Return the weights of whole bands as `[tiles, size]`."""
        rows = flat.view(-1, self.height, self.tiles_per_band, self.width)
        return rows.transpose(1, 2).reshape(-1, self.size)

    def to_flat(self, tiles: Tensor) -> Tensor:
        """Undo `to_tiles`."""
        return tiles.view(-1, self.tiles_per_band, self.height, self.width).transpose(1, 2).reshape(-1)
