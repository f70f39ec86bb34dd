"""Exact selection of the weights to prune, the same mask on any number of ranks."""

from dsprune.selection.normalize import normalized
from dsprune.selection.select import select

__all__ = ["normalized", "select"]
