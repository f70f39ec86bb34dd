"""Which kind of store: the smallest one that says what the teacher said."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dsprune.distillation.loss import CHUNK_ELEMENTS
from dsprune.distillation.signal import Head
from dsprune.distillation.store import Output, StoreSpec, check_origin
from dsprune.distillation.store.codecs import codec_for
from dsprune.distillation.teacher.forward import TeacherModel
from dsprune.errors import UserError
from dsprune.recipe import Distillation

__all__ = [
    "KL_BOUND",
    "SAMPLE",
    "Candidate",
    "candidates",
    "check_fit",
    "choose",
    "divergences",
    "measure",
    "show",
]

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
        error: KL divergence in nats from what the teacher said to what the store says: mean over rows and
            outputs, at the worst temperature.
    """

    spec: StoreSpec
    row_bytes: int
    error: float


def candidates(settings: Distillation, asking: TeacherModel) -> list[StoreSpec]:
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
    specs: Sequence[StoreSpec],
    asking: TeacherModel,
    examples: np.ndarray,
    batch_size: int,
    temperatures: Sequence[float],
) -> list[Candidate]:
    """Compare what the teacher says of some examples with what stores would say in its place.

    Collective when the teacher is sharded: every rank must call this.

    Args:
        specs: the stores.
        asking: the teacher.
        examples: which.
        batch_size: examples of a forward pass.
        temperatures: the worst of them counts.
    """
    needs_hidden = any(spec.kind == "hidden" for spec in specs)
    heads = asking.heads() if needs_hidden else {}
    sums = torch.zeros(len(specs), len(asking.classes), len(temperatures), dtype=torch.float64)
    num_rows = torch.zeros(len(asking.classes), 1, dtype=torch.float64)
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        logits = asking.rows(batch)
        hidden = asking.rows(batch, hidden=True) if needs_hidden else {}
        for i, (name, rows) in enumerate(logits.items()):
            num_rows[i] += len(rows)
            for j, spec in enumerate(specs):
                said = hidden[name] if spec.kind == "hidden" else rows
                sums[j, i] += divergences(spec, name, said, heads.get(name), rows.cpu(), temperatures)
    errors = (sums / num_rows.clamp(min=1)).mean(dim=1).amax(dim=1).clamp(min=0)  # rounding may go below
    return [
        Candidate(spec, row_bytes(spec), error) for spec, error in zip(specs, errors.tolist(), strict=True)
    ]


def divergences(
    spec: StoreSpec, name: str, said: Tensor, head: Head | None, logits: Tensor, temperatures: Sequence[float]
) -> Tensor:
    """Sum over rows of the divergence from the teacher's logits to what is stored of them, by temperature."""
    codec = codec_for(spec, spec.outputs[name], head)
    signal = codec.signal({key: column.cpu() for key, column in codec.encode(said).items()})
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    sums = torch.zeros(len(temperatures), dtype=torch.float64)
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        # What a store does not tell apart is taken as equally likely: the worst that it may mean.
        ignorant = torch.zeros_like(logits[rows], dtype=torch.float32).log_softmax(-1)
        for i, temperature in enumerate(temperatures):
            truth = (logits[rows].float() / temperature).log_softmax(-1)
            difference = truth - signal.log_probs(rows, temperature, ignorant)
            sums[i] += (truth.exp() * difference.masked_fill_(truth == -torch.inf, 0)).sum().double()
    return sums


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


def check_fit(folder: Path, spec: StoreSpec, settings: Distillation) -> None:
    """Compare what a store holds with what the recipe asks for by name; what it leaves open, any store may be.

    Raises:
        UserError: something differs, or the store does not know a temperature; both sides are named.
    """
    asked = settings.model_fields_set & ({"kind", "dtype", "k"} if spec.kind == "topk" else {"kind", "dtype"})
    wanted = {name: str(getattr(settings, name)) for name in sorted(asked)}
    if settings.kind == "auto":
        wanted.pop("kind", None)
    check_origin(folder, {name: str(value) for name, value in spec}, wanted)
    if spec.kind == "topk":
        _check_temperatures(folder, spec.temperatures, settings)


def _check_temperatures(folder: Path, known: tuple[float, ...], settings: Distillation) -> None:
    names = ", ".join(f"{temperature:g}" for temperature in known)
    knows = f"{folder} is of kind topk and knows {names} only: use one of them, or make another store"
    ramp = settings.temperature
    if not ramp.is_constant:
        raise UserError(f"distillation.temperature: from {ramp.first:g} to {ramp.final:g}: {knows}")
    for temperature in settings.stored_temperatures:
        if temperature not in known:
            raise UserError(f"distillation.temperature: value {temperature:g}: {knows}")
