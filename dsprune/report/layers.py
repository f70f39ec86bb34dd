"""The sparsity of each prunable tensor, over the layers."""

import re
from collections.abc import Mapping

from dsprune.report.blocks import Cell, HeatMap

__all__ = ["layer_map"]


def layer_map(sparsities: Mapping[str, float], caption: str, origin: str = "") -> HeatMap:
    """A heat map with a row a layer, a column a matrix; the darker, the sparser.

    Tensors that lie in no layer come first, each in a row of its own.

    Args:
        sparsities: fraction of zeros by name of the tensor.
        caption: what one sees.
        origin: what made it.
    """
    layers: dict[str, dict[str, Cell]] = {}
    for name, sparsity in sparsities.items():
        layer, matrix = _place(name)
        layers.setdefault(layer, {})[matrix] = Cell(sparsity, f"{100 * sparsity:.1f}", name)
    columns = tuple(dict.fromkeys(matrix for cells in layers.values() for matrix in cells))
    rows = tuple((name, tuple(cells.get(column) for column in columns)) for name, cells in layers.items())
    return HeatMap(caption, columns, rows, origin)


def _place(name: str) -> tuple[str, str]:
    """The layer that a tensor lies in, and its name there.

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
