"""Helpers that are independent of pruning."""
