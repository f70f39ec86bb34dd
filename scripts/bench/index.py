"""Opening a store of many small records, and finding them: CPU time, and memory."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from bench.figures import Row
from dsprune.distillation.store import (
    Output,
    ShardWriter,
    StoreSpec,
    begin_store,
    finish_store,
    open_store,
    plan_store,
)

__all__ = ["finding"]

BATCH = 256

T = TypeVar("T")


def finding(records: int) -> list[Row]:
    """Write a store of two classes, and return what opening it, finding all its records, and reading some takes."""
    with tempfile.TemporaryDirectory(dir="data") as name:
        folder = Path(name)
        names = write(folder, records)
        before = anonymous()
        first, _ = cpu_seconds(lambda: open_store(folder))
        again, store = cpu_seconds(lambda: open_store(folder))
        grown = anonymous() - before
        merge, missing = cpu_seconds(lambda: store.missing(names))
        assert missing == []
        random = np.random.default_rng(0)
        batches = [store.fingerprints[random.integers(0, records, BATCH)] for _ in range(200)]
        fetches = [cpu_seconds(lambda batch=batch: store.fetch(batch))[0] for batch in batches * 2]
    fetch = 1000 * median(fetches[len(batches) :])
    what = f"{records:,} records"
    return [
        Row(f"{what}: opened the first time, all checked", f"{first:.2f} s of CPU"),
        Row(f"{what}: opened again", f"{again:.2f} s of CPU", "2 s", again < 2),
        Row(f"{what}: memory of its own", f"{grown / 2**20:,.0f} MiB a process", "2 GB", grown < 2e9),
        Row(f"{what}: whether any is missing", f"{merge:.2f} s of CPU"),
        Row(f"{what}: {BATCH} at random", f"{fetch:.2f} ms of CPU", "1 ms", fetch < 1),
    ]


def write(folder: Path, records: int) -> np.ndarray:
    """Write a store of noise; return the fingerprints of its records, in no order."""
    names = np.frombuffer(np.random.default_rng(0).bytes(16 * records), dtype="V16")
    plan = plan_store(StoreSpec(kind="full", outputs={"logits": Output(classes=2)}), {}, names)
    begin_store(folder, plan)
    for shard in range(plan.num_shards):
        writer = ShardWriter(plan, shard)
        count = len(writer.samples)
        writer.put(range(count), {"logits": torch.randn(count, 2)})
        writer.save(folder)
    finish_store(folder, plan, {})
    return names


def cpu_seconds(call: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of CPU of a call, and its result."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def anonymous() -> int:
    """Return the bytes of this process that it does not share with others through files."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
