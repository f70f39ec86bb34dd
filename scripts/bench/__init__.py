"""The sections of `scripts/bench_core.py`."""
