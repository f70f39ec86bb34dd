"""The size, accuracy, reading speed and memory of a teacher logits store."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.figures import Row
from bench.tools import used_memory
from dsprune.distillation import Head
from dsprune.distillation.capture.choice import divergences
from dsprune.distillation.store import (
    Output,
    ShardWriter,
    StoreSpec,
    begin_store,
    finish_store,
    open_store,
    plan_store,
)
from dsprune.distillation.store.codecs import codec_for

__all__ = ["batch_reads", "memory", "sizes"]

# Classes and hidden width: BERT-base, a language model, and the large multilingual models.
SHAPES = {30_522: 768, 128_256: 1024, 250_027: 1024}
TEMPERATURE, K = 2.0, 64
KINDS = ("full", "topk", "packed", "hidden")
BATCH = 32
ROWS = 20  # of a record of a masked language model: 15 % of 128 tokens
MEBI = 2**20


def spec_of(kind: str, classes: int, width: int) -> StoreSpec:
    """Return the spec of a store in fp16, as a recipe defines it."""
    extra = {"k": K, "temperatures": (TEMPERATURE,)} if kind in ("topk", "packed") else {}
    if kind == "packed":
        kind, extra["dtype"] = "topk", "packed"
    output = Output(classes=classes, hidden=width if kind == "hidden" else None)
    return StoreSpec(kind=kind, outputs={"logits": output}, **extra)


def sizes() -> list[Row]:
    """Compare the bytes per token with full fp16 logits, and measure the divergence from the teacher's logits."""
    rows = []
    for classes, width in SHAPES.items():
        head, hidden = teacher(classes, width)
        logits = hidden @ head.weight.T + head.bias
        top1 = logits.softmax(-1).amax(-1).mean()
        rows.append(Row(f"{classes:,} classes: mean top-1 mass of the teacher", f"{top1:.2f}"))
        for kind in KINDS:
            rows.append(
                size_of(spec_of(kind, classes, width), hidden if kind == "hidden" else logits, logits, head)
            )
    return rows


def size_of(spec: StoreSpec, outputs: Tensor, logits: Tensor, head: Head) -> Row:
    """Return the size and the error of one kind of store."""
    output = spec.outputs["logits"]
    row_bytes = sum(column.row_bytes for column in codec_for(spec, output).columns.values())
    smaller, entry = 2 * output.classes / row_bytes, row_bytes / K
    error = float(divergences(spec, "logits", outputs, head, logits, [TEMPERATURE])) / len(logits)
    what = f"{output.classes:,} classes, {spec.kind} {spec.dtype}"
    figure = f"{row_bytes:,} bytes per token, 1 / {smaller:.1f}, KL error {max(0.0, error):.1e} nats"
    if spec.kind == "topk":
        most = 2.3 if spec.dtype == "packed" and output.classes == 128_256 else 6
        goal = {"goal": f"{most:g} bytes per entry at most", "met": entry <= most}
        return Row(f"{what}, k = {K}", f"{entry:.2f} an entry, {figure}", **goal)
    if spec.kind == "hidden" and output.hidden == 768:
        return Row(what, figure, "1 / 40", round(smaller) >= 40)
    return Row(what, figure)


def teacher(classes: int, width: int, tokens: int = 256) -> tuple[Head, Tensor]:
    """Return a head and hidden states whose logits resemble a language model's: a few likely words, and a long tail.

    They are not trained, because the package index has no masked language model. Logits are normal around the
    logarithm of Zipf's law, and the logit of each token's own word is raised by a random amount.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, width, generator=generator) * (2 / width**0.5)  # rows of length 2
    bias = -torch.log(torch.arange(1, classes + 1).float())
    words = weight[torch.randint(classes, (tokens,), generator=generator)] / 4
    boost = 30 * torch.rand(tokens, 1, generator=generator)
    return Head(weight, bias), torch.randn(tokens, width, generator=generator) + boost * words


def batch_reads(seconds_per_step: float, repeats: int) -> list[Row]:
    """Time reading random batches of 32 records: of the demo's two classes, and of a large vocabulary's rows."""
    rows = []
    for what, classes, width, per_record, records in (
        ("2 classes, 1 row a record", 2, 384, 1, 9000),
        (f"30,522 classes, {ROWS} rows a record", 30_522, 768, ROWS, 256),
    ):
        for kind in KINDS:
            with tempfile.TemporaryDirectory(dir="data") as folder:
                names = write_store(Path(folder), spec_of(kind, classes, width), records, per_record)
                milliseconds = read_batches(Path(folder), names, repeats)
            share = milliseconds / 1000 / seconds_per_step
            figure = f"{1000 / milliseconds:,.0f} a second, {share:.2%} of the step"
            goal = {"goal": "under 1 %", "met": share < 0.01}
            rows.append(Row(f"batches of {BATCH}, {kind} fp16, {what}", figure, **goal))
    return rows


def read_batches(folder: Path, names: np.ndarray, repeats: int) -> float:
    """Return the median milliseconds of reading a random batch."""
    store, random = open_store(folder), np.random.default_rng(0)
    times = []
    for _ in range(20 * repeats):
        batch = random.choice(names, BATCH)
        started = time.perf_counter()
        store.fetch(batch)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def write_store(folder: Path, spec: StoreSpec, records: int, rows_per_record: int) -> np.ndarray:
    """Write a store of noise; return the names of its records."""
    names = np.frombuffer(np.random.default_rng(0).bytes(16 * records), dtype="V16")
    rows = {"logits": np.full(records, rows_per_record)}
    plan = plan_store(spec, {}, names, rows)
    output = spec.outputs["logits"]
    noise = torch.randn(rows_per_record, output.hidden or output.classes)
    begin_store(folder, plan)
    for shard in range(plan.num_shards):
        writer = ShardWriter(plan, shard)
        for record in range(len(writer.samples)):
            writer.put([record], {"logits": noise})
        writer.save(folder)
    heads = {}
    if output.hidden is not None:
        heads = {"logits": Head(torch.randn(output.classes, output.hidden), torch.zeros(output.classes))}
    finish_store(folder, plan, heads)
    return names


# ---- memory


def memory(store_bytes: int = 768 * MEBI, budget: int = 192 * MEBI) -> list[Row]:
    """Read a store in a process whose memory, page cache included, is limited to a quarter of the store's size."""
    with tempfile.TemporaryDirectory(dir="data") as folder, memory_cgroup(budget) as cgroup:
        spec = spec_of("full", 30_522, 768)
        names = write_store(Path(folder), spec, store_bytes // (ROWS * 2 * 30_522), ROWS)
        for path in Path(folder).iterdir():
            drop_from_cache(path)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            first, last, seconds = pool.apply(read_all, (Path(folder), names, cgroup))
    limit = (
        f"in a memory cgroup of {budget // MEBI} MiB"
        if cgroup
        else "without a limit: making a memory cgroup is not permitted here"
    )
    speed = f"{2 * store_bytes / MEBI / seconds:,.0f} MiB a second"
    return [
        Row(f"a store of {store_bytes // MEBI:,} MiB read twice, {limit}", speed),
        Row("resident memory after the first tenth", f"{first / MEBI:,.0f} MiB"),
        Row("most resident memory after that", f"{last / MEBI:,.0f} MiB", "flat", last < first + 64 * MEBI),
    ]


def read_all(folder: Path, names: np.ndarray, cgroup: Path | None) -> tuple[int, int, float]:
    """Return the resident memory after a tenth of the reading, its maximum after that, and the seconds of reading."""
    if cgroup is not None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    store, random = open_store(folder, verify=False), np.random.default_rng(0)
    started, sizes = time.perf_counter(), []
    for _ in range(2):
        order = random.permutation(names)
        for start in range(0, len(order), BATCH):
            store.fetch(order[start : start + BATCH])
            sizes.append(used_memory())
    tenth = len(sizes) // 10
    return sizes[tenth], max(sizes[tenth:]), time.perf_counter() - started


def drop_from_cache(path: Path) -> None:
    """Drop a file's pages from the system's cache, where they are charged to another cgroup."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@contextmanager
def memory_cgroup(budget: int) -> Iterator[Path | None]:
    """Make a memory cgroup, version 1 or 2, for one process; yield None if this is not permitted."""
    for root, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = root / f"dsprune-bench-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(budget))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        try:
            yield folder
        finally:
            folder.rmdir()
        return
    yield None
