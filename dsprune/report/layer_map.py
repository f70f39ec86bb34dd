"""The sparsity of each prunable tensor, by layer."""

import re
from collections.abc import Mapping

from dsprune.report.page import Cell, HeatMap

__all__ = ["layer_map"]


def layer_map(sparsities: Mapping[str, float], caption: str, origin: str) -> HeatMap:
    """Return a heat map of the sparsities by tensor name, with a row per layer and a column per matrix."""
    cells = {
        _place(name): Cell(sparsity, f"{100 * sparsity:.1f}", name) for name, sparsity in sparsities.items()
    }
    return HeatMap(cells, caption, origin)


def _place(name: str) -> tuple[str, str]:
    """Return the layer of a tensor, and the tensor's name there.

    Examples:
        >>> _place("bert.encoder.layer.11.attention.self.query.weight")
        ('encoder layer 11', 'attention self query')
        >>> _place("classifier.weight")
        ('classifier', 'weight')
    """
    found = re.search(r"(?:(\w+)\.)?(\w+)\.(\d+)\.(.*)", name)
    if found is None:
        before, _, last = name.rpartition(".")
        return before.replace(".", " "), last
    parent, blocks, number, rest = found.groups()
    stack = f"{parent} " if parent in ("encoder", "decoder") else ""
    return f"{stack}{blocks} {number}", rest.removesuffix(".weight").replace(".", " ")
