"""A pruning method and a task for dsprune."""
