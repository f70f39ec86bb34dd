"""Scores that kernels compute on the fly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Product"]


@dataclass(frozen=True)
class Product:
    """Scores `first * sqrt(root) * scale`, in float32 and in this order, so that all devices round equally.

    Attributes:
        first: one number per weight, contiguous.
        root: one number per weight, at least 0; None = 1.
        scale: the same for all weights.
    """

    first: Tensor
    root: Tensor | None = None
    scale: float = 1.0

    def __getitem__(self, part: slice) -> Product:
        return Product(self.first[part], None if self.root is None else self.root[part], self.scale)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that it reads."""
        return [self.first] if self.root is None else [self.first, self.root]

    def values(self) -> Tensor:
        """Return the scores."""
        scores = self.first.float()
        if self.root is not None:  # the float32 roots of torch are not rounded exactly on every CPU
            scores = scores * self.root.double().sqrt().float()
        return scores if self.scale == 1 else scores * self.scale
