"""Which kind of store: the smallest one that says what the teacher said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dsprune.programs.teacher.asking import Asking, Rows
from dsprune.pure.distill import Head
from dsprune.pure.recipe import Distillation
from dsprune.pure.store import Output, StoreSpec
from dsprune.pure.store.codecs import codec_for

__all__ = ["KL_BOUND", "Candidate", "candidates", "choose", "measure", "show"]

KL_BOUND = 1e-3
"""Nats a row: the largest mean error that `auto` takes."""

SAMPLE = 64
"""Examples that kinds are compared on."""


@dataclass(frozen=True)
class Candidate:
    """One way to store the teacher.

    Attributes:
        spec: what would be stored.
        row_bytes: bytes of a row, all outputs together.
        error: KL divergence in nats from what the teacher said to what the store says, mean over rows.
    """

    spec: StoreSpec
    row_bytes: int
    error: float


def candidates(settings: Distillation, asking: Asking) -> list[StoreSpec]:
    """The kinds that the recipe asks for and the task has, the smallest rows first."""
    classes = asking.classes
    plain = {name: Output(classes=width) for name, width in classes.items()}
    specs = [StoreSpec(kind="full", outputs=plain, dtype=settings.dtype)]
    if temperatures := settings.stored_temperatures:
        specs.append(
            StoreSpec(
                kind="topk", outputs=plain, dtype=settings.dtype, k=settings.k, temperatures=temperatures
            )
        )
    if asking.hidden.keys() == classes.keys():
        outputs = {name: Output(classes=width, hidden=asking.hidden[name]) for name, width in classes.items()}
        specs.append(StoreSpec(kind="hidden", outputs=outputs, dtype=settings.dtype))
    return sorted((s for s in specs if settings.kind in (s.kind, "auto")), key=row_bytes)


def row_bytes(spec: StoreSpec) -> int:
    """Bytes of a row, all outputs together."""
    columns = (codec_for(spec, output).columns.values() for output in spec.outputs.values())
    return sum(column.row_bytes for parts in columns for column in parts)


def measure(
    specs: Sequence[StoreSpec], asking: Asking, examples: np.ndarray, temperature: float
) -> list[Candidate]:
    """Compare what the teacher says of some examples with what stores would say in its place."""
    logits = asking.rows(examples)
    needs_hidden = any(spec.kind == "hidden" for spec in specs)
    hidden = asking.rows(examples, hidden=True) if needs_hidden else {}
    heads = asking.heads() if needs_hidden else {}
    return [
        Candidate(spec, row_bytes(spec), _error(spec, logits, hidden, heads, temperature)) for spec in specs
    ]


def _error(spec: StoreSpec, logits: Rows, hidden: Rows, heads: dict[str, Head], temperature: float) -> float:
    errors = []
    for name, output in spec.outputs.items():
        codec = codec_for(spec, output, heads.get(name))
        rows = (hidden if spec.kind == "hidden" else logits)[name]
        signal = codec.signal({key: column.cpu() for key, column in codec.encode(rows).items()})
        truth = (logits[name].cpu().float() / temperature).log_softmax(-1)
        # What a store does not tell apart is taken as equally likely: the worst that it may mean.
        ignorant = torch.zeros_like(truth).log_softmax(-1)
        stored = signal.log_probs(slice(None), temperature, ignorant)
        errors.append(_divergence(truth, stored))
    return sum(errors) / len(errors)


def _divergence(truth: Tensor, other: Tensor) -> float:
    difference = (truth - other).masked_fill(truth == -torch.inf, 0)
    return max(0.0, float((truth.exp() * difference).sum(-1).mean()))  # rounding may go below


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest with an error under the bound; where none is, the one with the smallest error."""
    good = [one for one in candidates if one.error <= KL_BOUND]
    return min(good, key=lambda one: one.row_bytes) if good else min(candidates, key=lambda one: one.error)


def show(candidates: Sequence[Candidate], chosen: Candidate, console: Console) -> None:
    """Print the comparison."""
    table = Table(
        "kind", "bytes a row", "KL error, nats", "", title=f"kinds of store, bound {KL_BOUND:g} nats"
    )
    for one in candidates:
        mark = "chosen" if one is chosen else "" if one.error <= KL_BOUND else "over the bound"
        table.add_row(f"{one.spec.kind} {one.spec.dtype}", f"{one.row_bytes:,}", f"{one.error:.1e}", mark)
    console.print(table)
