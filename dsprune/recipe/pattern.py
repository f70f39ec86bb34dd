"""The pattern of a mask: which weights of a matrix are pruned together."""

import re
from dataclasses import dataclass

__all__ = ["PATTERNS", "UNSTRUCTURED", "Pattern", "check_pattern", "matrix_shape"]

PATTERNS = "unstructured, rows, N:M such as '2:4' (in quotes), or HEIGHTxWIDTH such as 1x4, 4x1 or 16x16"
"""The valid forms, for messages."""

LARGEST = 4096
"""Largest side of a tile."""


@dataclass(frozen=True)
class Pattern:
    """A matrix `[outputs, inputs]` is cut into tiles, and a mask update prunes whole tiles.

    A pruned tile keeps the highest scores in it: N of the M weights of `N:M`, none of a block or a row.

    Attributes:
        text: the pattern as a recipe writes it.
        height: outputs in a tile.
        width: inputs in a tile; None = all of them.
        kept: number of weights that a pruned tile keeps.
    """

    text: str
    height: int
    width: int | None
    kept: int = 0

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read a pattern as a recipe writes it.

        Raises:
            ValueError: the text is not a pattern.

        Examples:
            >>> Pattern.parse("2:4")
            Pattern(text='2:4', height=1, width=4, kept=2)
            >>> Pattern.parse("16x8")
            Pattern(text='16x8', height=16, width=8, kept=0)
        """
        if text in ("unstructured", "rows"):
            return cls(text, 1, 1 if text == "unstructured" else None)
        match = re.fullmatch(r"([1-9]\d{0,3})([:x])([1-9]\d{0,3})", text)
        if match is None:
            raise ValueError(f"must be {PATTERNS}")
        first, second = int(match[1]), int(match[3])
        if max(first, second) > LARGEST:
            raise ValueError(f"must have numbers of at most {LARGEST}")
        if match[2] == "x":
            return cls(text, first, second)
        if first >= second:
            raise ValueError("N:M keeps N of M neighbouring inputs, so N must be less than M")
        return cls(text, 1, second, first)

    @property
    def is_unstructured(self) -> bool:
        """Whether each weight is pruned separately."""
        return (self.height, self.width) == (1, 1)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros once all tiles are pruned."""
        return (self.width - self.kept) / self.width if self.width and self.kept else 1.0

    def tile(self, shape: tuple[int, ...], inputs_first: bool = False) -> tuple[int, int]:
        """Return rows and columns of a tile of a tensor, as it is stored: `[inputs, outputs]` if `inputs_first`.

        Examples:
            >>> Pattern.parse("4x2").tile((12, 10)), Pattern.parse("4x2").tile((12, 10), inputs_first=True)
            ((4, 2), (2, 4))
        """
        if inputs_first:
            return self.width or shape[-2], self.height
        return self.height, self.width or matrix_shape(shape)[-1]

    def grid(self, shape: tuple[int, ...], inputs_first: bool = False) -> tuple[int, ...]:
        """Return the shape of the tiles of a tensor; dimensions before the last two count stacked matrices.

        Raises:
            ValueError: the tiles do not cover the tensor exactly.

        Examples:
            >>> Pattern.parse("4x2").grid((8, 12, 10)), Pattern.parse("rows").grid((12, 10))
            ((8, 3, 5), (12, 1))
        """
        if self.is_unstructured:
            return shape
        shape = shape if inputs_first else matrix_shape(shape)
        if len(shape) < 2:
            raise ValueError("is not a matrix")
        *stack, rows, columns = shape
        height, width = self.tile(shape, inputs_first)
        for number, side, what in ((rows, height, "rows"), (columns, width, "columns")):
            if number % side:
                raise ValueError(f"its {number} {what} are no multiple of {side}")
        return (*stack, rows // height, columns // width)


UNSTRUCTURED = Pattern.parse("unstructured")


def check_pattern(text: str) -> str:
    """Check that a text is a pattern, and return it.

    Raises:
        ValueError: the text is not a pattern.
    """
    return Pattern.parse(text).text


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape whose last dimension is the input: without the kernel of a convolution of width 1.

    Examples:
        >>> matrix_shape((8, 6, 1, 1)), matrix_shape((8, 1))
        ((8, 6), (8, 1))
    """
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
