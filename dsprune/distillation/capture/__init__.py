"""Capture: the teacher runs once over the training data, and its outputs are written to a store."""
