"""Masks of one bit a weight: packing, applying, checking."""
