"""The choice of the kind of store: the smallest one that reproduces the teacher's outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from dsprune.distillation.capture.forward import TeacherModel
from dsprune.distillation.loss import CHUNK_ELEMENTS
from dsprune.distillation.signal import Head
from dsprune.distillation.store import Output, StoreSpec
from dsprune.distillation.store.codecs import codec_for
from dsprune.recipe import Distillation
from dsprune.utils.console import empty_table, print_table

__all__ = ["KL_BOUND", "NUM_COMPARED", "Candidate", "candidates", "choose", "divergences", "measure", "show"]

KL_BOUND = 1e-3
"""The largest mean error, in nats per row, that `distillation.kind: auto` accepts."""

FEW_CLASSES = 256
"""`auto` does not pack outputs with at most so many classes: they are small, and some exclude classes from rows."""

NUM_COMPARED = 64
"""Number of examples on which kinds are compared."""


@dataclass(frozen=True)
class Candidate:
    """One way to store the teacher's outputs.

    Attributes:
        spec: the specification of the store.
        row_bytes: bytes of a row, all outputs together.
        error: KL divergence of the stored from the original distribution in nats, mean over rows and outputs, at the
            worst temperature.
    """

    spec: StoreSpec
    row_bytes: int
    error: float


def candidates(settings: Distillation, teacher: TeacherModel) -> list[StoreSpec]:
    """Return the kinds that the recipe allows and the teacher supports, the smallest rows first."""
    classes = teacher.classes
    plain = {name: Output(classes=width) for name, width in classes.items()}
    specs = []
    if settings.dtype != "packed":
        specs.append(StoreSpec(kind="full", outputs=plain, dtype=settings.dtype))
    if temperatures := settings.stored_temperatures:
        topk = StoreSpec(
            kind="topk", outputs=plain, dtype=settings.dtype, k=settings.k, temperatures=temperatures
        )
        specs.append(topk)
        is_free = settings.kind == "auto" and "dtype" not in settings.model_fields_set
        if is_free and min(classes.values()) > FEW_CLASSES:
            specs.append(topk.model_copy(update={"dtype": "packed"}))
    if teacher.hidden.keys() == classes.keys() and settings.dtype != "packed":
        outputs = {
            name: Output(classes=width, hidden=teacher.hidden[name]) for name, width in classes.items()
        }
        specs.append(StoreSpec(kind="hidden", outputs=outputs, dtype=settings.dtype))
    return sorted((s for s in specs if settings.kind in (s.kind, "auto")), key=_row_bytes)


def measure(
    specs: Sequence[StoreSpec],
    teacher: TeacherModel,
    examples: np.ndarray,
    batch_size: int,
    temperatures: Sequence[float],
) -> list[Candidate]:
    """Measure the error of each kind of store on some examples.

    Collective when the teacher is sharded: every rank must call this.

    Args:
        specs: the kinds.
        teacher: the teacher.
        examples: indices in the training data.
        batch_size: examples of a forward pass.
        temperatures: the error is taken at the worst of these.
    """
    needs_hidden = any(spec.kind == "hidden" for spec in specs)
    heads = teacher.heads() if needs_hidden else {}
    sums = torch.zeros(len(specs), len(teacher.classes), len(temperatures), dtype=torch.float64)
    num_rows = torch.zeros(len(teacher.classes), 1, dtype=torch.float64)
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        logits = teacher.rows(batch)
        hidden = teacher.rows(batch, hidden=True) if needs_hidden else {}
        for i, (name, rows) in enumerate(logits.items()):
            num_rows[i] += len(rows)
            for j, spec in enumerate(specs):
                encoded = hidden[name] if spec.kind == "hidden" else rows
                sums[j, i] += divergences(spec, name, encoded, heads.get(name), rows.cpu(), temperatures)
    errors = (sums / num_rows.clamp(min=1)).mean(dim=1).amax(dim=1).clamp(min=0)  # rounding may give less
    return [
        Candidate(spec, _row_bytes(spec), error) for spec, error in zip(specs, errors.tolist(), strict=True)
    ]


def divergences(
    spec: StoreSpec, name: str, rows: Tensor, head: Head | None, logits: Tensor, temperatures: Sequence[float]
) -> Tensor:
    """Return the KL divergence of the stored distribution from the teacher's, summed over rows, `[temperatures]`.

    Args:
        spec: the kind of store.
        name: the output.
        rows: the rows to encode: logits, or for kind `hidden` the inputs of `head`.
        head: for kind `hidden`, the last layer.
        logits: the teacher's logits, `[rows, classes]`, on the CPU.
        temperatures: temperatures to measure at.
    """
    codec = codec_for(spec, spec.outputs[name], head)
    signal = codec.signal({key: column.cpu() for key, column in codec.encode(rows).items()})
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    sums = torch.zeros(len(temperatures), dtype=torch.float64)
    for start in range(0, len(logits), size):
        chunk = slice(start, start + size)
        # Mass that the store holds only as a sum is divided equally, because the store has no more information.
        uniform = torch.zeros_like(logits[chunk], dtype=torch.float32).log_softmax(-1)
        for i, temperature in enumerate(temperatures):
            exact = (logits[chunk].float() / temperature).log_softmax(-1)
            difference = exact - signal.log_probs(chunk, temperature, uniform)
            sums[i] += (exact.exp() * difference.masked_fill_(exact == -torch.inf, 0)).sum().double()
    return sums


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the smallest candidate with an error within the bound; otherwise the one with the smallest error."""
    accurate = [one for one in candidates if one.error <= KL_BOUND]
    if not accurate:
        return min(candidates, key=lambda one: one.error)
    return min(accurate, key=lambda one: one.row_bytes)


def show(candidates: Sequence[Candidate], chosen: Candidate, console: Console) -> None:
    """Print a table of the candidates."""
    table = empty_table(Text(f"Kinds of store, bound {KL_BOUND:g} nats"))
    for number, column in enumerate(("kind", "bytes per row", "KL error, nats", "")):
        table.add_column(column, justify="right" if number in (1, 2) else "left")
    for one in candidates:
        mark = "chosen" if one is chosen else "" if one.error <= KL_BOUND else "over the bound"
        table.add_row(f"{one.spec.kind} {one.spec.dtype}", f"{one.row_bytes:,}", f"{one.error:.1e}", mark)
    print_table(console, table)


def _row_bytes(spec: StoreSpec) -> int:
    """Return the bytes of a row, all outputs together."""
    columns = (codec_for(spec, output).columns.values() for output in spec.outputs.values())
    return sum(column.row_bytes for parts in columns for column in parts)
