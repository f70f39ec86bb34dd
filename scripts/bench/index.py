"""Open a store of many small records, and find them: CPU time and memory."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Self, TypeVar

import numpy as np
import torch

from bench.figures import Row
from bench.stores import drop_from_cache
from bench.tools import milliseconds, used_memory
from dsprune.distillation.store import (
    Output,
    ShardWriter,
    StorePlan,
    StoreSpec,
    begin_store,
    finish_store,
    open_store,
)
from dsprune.distillation.store.format import FINGERPRINT

__all__ = ["finding"]

BATCH, MICRO_BATCH = 256, 32
NUM_BATCHES = 200
OWN = "RssAnon"  # bytes that a process does not share with others through files

T = TypeVar("T")


def finding(records: int, step_seconds: float) -> list[Row]:
    """Write a store of two classes; measure opening it, finding all its records, and reading some.

    Needs 35 bytes of memory and 50 bytes of disk per record.

    Args:
        records: number of records.
        step_seconds: duration of a step of the demo's training, whose wait for records is measured.
    """
    with tempfile.TemporaryDirectory(dir="data") as name:
        folder = Path(name)
        names = write(folder, records)
        before = used_memory(OWN)
        first, _ = cpu_seconds(lambda: open_store(folder))
        again, store = cpu_seconds(lambda: open_store(folder))
        grown = used_memory(OWN) - before
        with Watch() as watch:
            merge, missing = cpu_seconds(lambda: store.missing(names))
        assert missing == []
        num_files = len(list(Path("/proc/self/fd").iterdir()))
        batches = random_batches(names, BATCH)
        fetches = [cpu_seconds(lambda batch=batch: store.fetch(batch))[0] for batch in batches * 2]
        del store  # pages that are mapped stay in the cache
        for path in folder.iterdir():
            drop_from_cache(path)
        store, micro_batches = open_store(folder), random_batches(names, MICRO_BATCH)
        waits = [milliseconds(lambda batch=batch: store.fetch(batch)) for batch in micro_batches * 2]
    fetch = 1000 * median(fetches[NUM_BATCHES:])
    what = f"{records:,} records"
    return [
        Row(f"{what}: opened the first time, all checked", f"{first:.2f} s of CPU"),
        Row(f"{what}: opened again", f"{again:.2f} s of CPU", "2 s", again < 2),
        Row(f"{what}: memory of its own", f"{grown / 2**20:,.0f} MiB a process", "2 GB", grown < 2e9),
        Row(f"{what}: open files", str(num_files), "64", num_files <= 64),
        Row(f"{what}: whether any is missing, in no order", f"{merge:.2f} s of CPU", "20 s", merge < 20),
        Row(f"{what}: memory for that", f"{watch.grown / 2**20:,.0f} MiB", "1 GiB", watch.grown < 2**30),
        Row(f"{what}: {BATCH} at random", f"{fetch:.2f} ms of CPU", "1 ms", fetch < 1),
        waiting(f"{what}: {MICRO_BATCH} at random, from the disk", waits[:NUM_BATCHES], step_seconds),
        waiting(f"{what}: {MICRO_BATCH} at random, read before", waits[NUM_BATCHES:], step_seconds),
    ]


def waiting(what: str, waits: list[float], step_seconds: float) -> Row:
    """Return the time that a step waits for its records."""
    share = median(waits) / 1000 / step_seconds
    figure = f"{median(waits):.2f} ms, {share:.2%} of the demo's step of {1000 * step_seconds:.0f} ms"
    return Row(what, figure, "under 1 %", share < 0.01)


def random_batches(names: np.ndarray, size: int) -> list[np.ndarray]:
    """Return random records."""
    random = np.random.default_rng(0)
    return [names[random.integers(0, len(names), size)] for _ in range(NUM_BATCHES)]


def write(folder: Path, records: int) -> np.ndarray:
    """Write a store of noise; return the fingerprints of its records, in no order.

    The plan is made here, because a plan of unsorted samples takes eight times the memory of their fingerprints.
    """
    random, spec = np.random.default_rng(0), StoreSpec(kind="full", outputs={"logits": Output(classes=2)})
    names = np.empty((records, 2), ">u8")
    names[:, 0] = np.sort(random.integers(2**64, size=records, dtype=np.uint64))
    names[:, 1] = np.arange(records)
    fingerprints = names.view(FINGERPRINT)[:, 0]
    bounds = np.append(np.arange(0, records, max(1024, records // 1024)), records)
    one_each = {"logits": np.broadcast_to(np.int64(1), records)}
    plan = StorePlan(spec, {}, fingerprints, np.broadcast_to(np.int64(0), records), one_each, bounds)
    begin_store(folder, plan)
    for shard in range(plan.num_shards):
        writer = ShardWriter(plan, shard)
        count = len(writer.samples)
        writer.put(range(count), {"logits": torch.randn(count, 2)})
        writer.save(folder)
    finish_store(folder, plan, {})
    random.shuffle(fingerprints)
    return fingerprints


def cpu_seconds(call: Callable[[], T]) -> tuple[float, T]:
    """Return the CPU seconds of a call, and its result."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


class Watch:
    """The peak of this process's private memory in this context.

    Attributes:
        grown: bytes more than at the start.
    """

    def __enter__(self) -> Self:
        self.grown, self._before, self._ended = 0, used_memory(OWN), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.grown = max(self.grown, used_memory(OWN) - self._before)
