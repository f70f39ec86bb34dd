"""Pruning methods, one per file: each scores the weights of a shard, and the lowest scores are pruned first."""
