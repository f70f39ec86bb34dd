"""Compare the results of two runs, bit for bit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dsprune.checkpoint.deepspeed_files import CheckpointFiles
from dsprune.checkpoint.tags import latest_tag
from dsprune.train.run_folder import RunFolder
from dsprune.utils.files import sha256_of

__all__ = ["differences"]

CLOCKS = ("seconds_per_step", "update_seconds")
"""Measured times, which differ between runs."""


def differences(one: RunFolder, other: RunFolder) -> Iterator[str]:
    """Name every difference in model, masks, master weights, moments, learning rate, random states and log."""
    for path in sorted(one.model.glob("*.safetensors")):
        if sha256_of(path) != sha256_of(other.model / path.name):
            yield f"model: {path.name}"
    tags = [run.checkpoints / (latest_tag(run.checkpoints) or "") for run in (one, other)]
    yield from _checkpoints(tags[0], tags[1])
    yield from _logs(one.metrics, other.metrics)


def _checkpoints(one: Path, other: Path) -> Iterator[str]:
    if one.name != other.name:
        yield f"newest checkpoint: {one.name}, {other.name}"
        return
    ours, theirs = CheckpointFiles(one), CheckpointFiles(other)
    for name in ours.names:
        views = theirs.views(name)
        for what, view in ours.views(name).items():
            if not torch.equal(view, views[what]):
                yield f"checkpoint: {what} of {name}"
    if ours.counters != theirs.counters:
        yield f"checkpoint: {ours.counters}, {theirs.counters}"
    for path in sorted([*one.glob("masks-*"), *one.glob("rank-*")]):
        states = load_file(path), load_file(other / path.name)
        for name, state in states[0].items():
            if not torch.allclose(state.double(), states[1][name].double(), rtol=0, atol=0, equal_nan=True):
                yield f"checkpoint: {name} of {path.name}"


def _logs(one: Path, other: Path) -> Iterator[str]:
    ours, theirs = _lines(one), _lines(other)
    if len(ours) != len(theirs):
        yield f"log: {len(ours)} lines, {len(theirs)} lines"
    for line, their_line in zip(ours, theirs, strict=False):
        if line != their_line:
            yield f"log: {line}, {their_line}"
            return


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
