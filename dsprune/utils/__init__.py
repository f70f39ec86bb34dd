"""Small helpers that know nothing of pruning."""
