"""Exact selection of the weights to prune, with the same mask on any number of ranks."""

from dsprune.selection.normalize import normalize
from dsprune.selection.select import select

__all__ = ["normalize", "select"]
