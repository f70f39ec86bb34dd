"""The sections of `scripts/bench_core.py` and `scripts/bench_distill.py`."""
