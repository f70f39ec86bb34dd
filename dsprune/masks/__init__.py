"""The masks of a rank's shards, in memory and on disk."""

from dsprune.masks.mask_set import MaskSet

__all__ = ["MaskSet"]
