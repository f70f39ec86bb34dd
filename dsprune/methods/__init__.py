"""Pruning methods, one a file: each gives the scores of a shard, and the lowest scores are pruned first."""
