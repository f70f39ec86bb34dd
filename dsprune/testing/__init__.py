"""Helpers for tests and benchmarks: tiny models and data, ranks, oracles, and checks of tasks and methods."""
