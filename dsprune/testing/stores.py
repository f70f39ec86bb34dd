"""Small teacher stores, and the outputs of their teacher by sample."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation import Head
from dsprune.distillation.store import (
    Output,
    ShardWriter,
    StorePlan,
    StoreSpec,
    begin_store,
    fingerprints,
    finish_store,
    missing_shards,
    plan_store,
)

ORIGIN = {"teacher": "t" * 64, "tokenizer": "k" * 64, "dataset": "d" * 64, "preprocessing": "p" * 64}
HIDDEN = 5
TEMPERATURES = (1.0, 2.0, 5.5)


def samples(count: int = 40) -> list[list[int]]:
    """Return token numbers of samples; every third one is a copy of an earlier one."""
    return [[i // 2 if i % 3 == 2 else i, 7, *range(i % 4)] for i in range(count)]


def spec(kind: str = "full", dtype: str = "fp16", classes: int = 300, outputs: int = 1) -> StoreSpec:
    """Return the format of a store."""
    output = Output(classes=classes, hidden=HIDDEN if kind == "hidden" else None)
    values: dict[str, Any] = {
        "kind": kind,
        "dtype": dtype,
        "outputs": {f"out{number}": output for number in range(outputs)},
    }
    if kind == "topk":
        values |= {"k": 8, "temperatures": TEMPERATURES}
    return StoreSpec(**values)


def plan(spec: StoreSpec, data: list[list[int]] | None = None, shard_bytes: int = 6000) -> StorePlan:
    """Return the plan of a store of these samples."""
    data = samples() if data is None else data
    rows = {name: np.array([len(s) - 1 + i for s in data]) for i, name in enumerate(sorted(spec.outputs))}
    return plan_store(spec, ORIGIN, fingerprints({"input_ids": data}), rows, shard_bytes)


def head(name: str, classes: int = 300) -> Head:
    """Return the last layer of a teacher by the name of its output."""
    generator = torch.Generator().manual_seed(len(name) + ord(name[-1]))
    return Head(torch.randn(classes, HIDDEN, generator=generator), torch.randn(classes, generator=generator))


def said(spec: StoreSpec, name: str, sample: list[int]) -> Tensor:
    """Return the rows of one output of the teacher for a sample: logits, or hidden states."""
    output = spec.outputs[name]
    number = sorted(spec.outputs).index(name)
    generator = torch.Generator().manual_seed(hash((number, *sample)) % 2**31)
    width = output.classes if output.hidden is None else output.hidden
    return 4 * torch.randn(len(sample) - 1 + number, width, generator=generator)


def logits(spec: StoreSpec, name: str, sample: list[int]) -> Tensor:
    """Return the logits of one output of the teacher for a sample, before they are stored."""
    rows = said(spec, name, sample)
    if spec.kind != "hidden":
        return rows
    weight = head(name, spec.outputs[name].classes)
    return rows @ weight.weight.T + weight.bias


def write_shard(folder: Path, plan: StorePlan, number: int, data: list[list[int]] | None = None) -> None:
    """Write a shard in batches of three, the last record first."""
    data = samples() if data is None else data
    writer = ShardWriter(plan, number)
    records = list(range(len(writer.samples)))[::-1]
    for start in range(0, len(records), 3):
        batch = records[start : start + 3]
        writer.put(
            batch,
            {
                name: torch.cat([said(plan.spec, name, data[writer.samples[i]]) for i in batch])
                for name in plan.spec.outputs
            },
        )
    writer.save(folder)


def capture(folder: Path, plan: StorePlan, data: list[list[int]] | None = None) -> Path:
    """Write the missing shards of a store, and return its folder."""
    begin_store(folder, plan)
    for number in missing_shards(folder, plan):
        write_shard(folder, plan, number, data)
    heads = {name: head(name) for name in plan.spec.outputs} if plan.spec.kind == "hidden" else {}
    finish_store(folder, plan, heads)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
