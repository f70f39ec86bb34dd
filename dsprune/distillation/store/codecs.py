"""The columns of each kind of store: `encode` makes them from the teacher's outputs, `signal` reads them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsprune.distillation.loss import CHUNK_ELEMENTS
from dsprune.distillation.signal import FullSignal, Head, HiddenSignal, TeacherSignal, TopKSignal
from dsprune.distillation.store.format import Output, StoreSpec
from dsprune.distillation.store.packed import NUM_KNOTS, decode_curve, encode_curve, pack, unpack
from dsprune.errors import UserError

__all__ = ["Codec", "Column", "codec_for"]


@dataclass(frozen=True)
class Column:
    """One tensor of a shard, `[rows, *shape]`."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)


class Codec(Protocol):
    """Converts rows of one output to columns of a store and back; each row is independent of the others."""

    @property
    def columns(self) -> dict[str, Column]:
        """The columns by name."""

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the columns of some rows of the teacher's output, on the device of the rows.

        Args:
            rows: logits, `[rows, classes]`, or hidden states, `[rows, hidden]`.

        Raises:
            UserError: in the type of the store, a row contains NaN, or its maximum or a hidden state is not finite.
        """

    def signal(self, columns: Mapping[str, Tensor]) -> TeacherSignal:
        """Return the teacher's side of the loss for the rows of these columns."""


def codec_for(spec: StoreSpec, output: Output, head: Head | None = None) -> Codec:
    """Return the codec of an output; `head` is needed to read hidden states, not to write them."""
    if spec.kind == "full":
        return _Full(spec.torch_dtype, output.classes)
    if spec.kind == "topk":
        assert spec.k is not None
        if spec.dtype == "packed":
            return _PackedTopK(output.classes, min(spec.k, output.classes), spec.temperatures)
        return _TopK(spec.torch_dtype, output.classes, min(spec.k, output.classes), spec.temperatures)
    assert output.hidden is not None
    return _Hidden(spec.torch_dtype, output.hidden, head)


@dataclass(frozen=True)
class _Full:
    dtype: torch.dtype
    classes: int

    @property
    def columns(self) -> dict[str, Column]:
        return {"logits": Column(self.dtype, (self.classes,))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return {"logits": _checked(rows.to(self.dtype))}

    def signal(self, columns: Mapping[str, Tensor]) -> FullSignal:
        return FullSignal(columns["logits"])


@dataclass(frozen=True)
class _TopK:
    """Stores logits minus the maximum of their row, so that the largest logits are the most accurate."""

    dtype: torch.dtype
    classes: int
    k: int
    temperatures: tuple[float, ...]

    @property
    def index_bytes(self) -> int:
        return max(1, math.ceil((self.classes - 1).bit_length() / 8))

    @property
    def columns(self) -> dict[str, Column]:
        return {
            "values": Column(self.dtype, (self.k,)),
            "indices": Column(torch.uint8, (self.k, self.index_bytes)),  # little-endian
            "rest": Column(torch.float32, (len(self.temperatures),)),
        }

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return _in_chunks(self._encode, rows)

    def _encode(self, rows: Tensor) -> dict[str, Tensor]:
        logits = _below_maximum(rows)
        values, indices = logits.topk(self.k, dim=-1)
        others = logits.scatter(-1, indices, -torch.inf)
        return {
            "values": _checked(values.to(self.dtype)),
            "indices": indices.int().view(torch.uint8).view(*indices.shape, 4)[..., : self.index_bytes],
            "rest": torch.stack([(others / t).logsumexp(-1) for t in self.temperatures], dim=-1),
        }

    def signal(self, columns: Mapping[str, Tensor]) -> TopKSignal:
        stored = columns["indices"]
        indices = torch.zeros(*stored.shape[:-1], 4, dtype=torch.uint8)
        indices[..., : self.index_bytes] = stored
        return TopKSignal(
            columns["values"], indices.view(torch.int32).squeeze(-1), columns["rest"], self.temperatures
        )


@dataclass(frozen=True)
class _PackedTopK:
    """Stores the k largest logits in the form of packed.py, and their total mass exactly."""

    classes: int
    k: int
    temperatures: tuple[float, ...]

    @property
    def bits(self) -> int:
        return max(1, (self.classes - 1).bit_length())

    @property
    def columns(self) -> dict[str, Column]:
        return {
            "knots": Column(torch.uint8, (NUM_KNOTS,)),
            "packed": Column(torch.uint8, (math.ceil(self.k * self.bits / 8),)),
            "rest": Column(torch.float16, (len(self.temperatures),)),
        }

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return _in_chunks(self._encode, rows)

    def _encode(self, rows: Tensor) -> dict[str, Tensor]:
        logits = _below_maximum(rows)
        values, indices = logits.topk(self.k, dim=-1)
        if not bool(values.isfinite().all()):
            raise UserError(
                "teacher: not finite, or -inf among the k largest, which distillation.dtype packed cannot hold: check "
                "the teacher, or set distillation.dtype to fp16"
            )
        knots = encode_curve(values)
        kept = decode_curve(knots, self.k)
        others = logits.scatter(-1, indices, -torch.inf)
        # Minus the error of the curve, so that the k logits together have the teacher's mass.
        rest = [
            (others / t).logsumexp(-1) + (kept / t).logsumexp(-1) - (values / t).logsumexp(-1)
            for t in self.temperatures
        ]
        return {"knots": knots, "packed": pack(indices, self.bits), "rest": torch.stack(rest, dim=-1).half()}

    def signal(self, columns: Mapping[str, Tensor]) -> TopKSignal:
        values, indices = decode_curve(columns["knots"], self.k), unpack(columns["packed"], self.bits, self.k)
        return TopKSignal(values, indices, columns["rest"].float(), self.temperatures)


@dataclass(frozen=True)
class _Hidden:
    dtype: torch.dtype
    width: int
    head: Head | None

    @property
    def columns(self) -> dict[str, Column]:
        return {"hidden": Column(self.dtype, (self.width,))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return {"hidden": _checked(rows.to(self.dtype), negative_infinity=False)}

    def signal(self, columns: Mapping[str, Tensor]) -> HiddenSignal:
        assert self.head is not None
        return HiddenSignal(columns["hidden"], self.head)


def _below_maximum(rows: Tensor) -> Tensor:
    """Return logits minus the maximum of their row, fp32."""
    logits = rows.float()
    return logits - logits.amax(-1, keepdim=True)


def _in_chunks(encode: Callable[[Tensor], dict[str, Tensor]], rows: Tensor) -> dict[str, Tensor]:
    """Encode some rows at a time, to limit the memory."""
    parts = [encode(chunk) for chunk in rows.split(max(1, CHUNK_ELEMENTS // rows.shape[1]))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _checked(rows: Tensor, *, negative_infinity: bool = True) -> Tensor:
    """Return the rows if they are valid: logits may be -inf, but not all of a row; hidden states must be finite."""
    is_valid = rows.amax(-1).isfinite() if negative_infinity else rows.isfinite()
    if not bool(is_valid.all()):
        raise UserError(
            f"teacher: its outputs are not finite in {rows.dtype}: check the teacher, or set distillation.dtype to "
            "bf16 or fp32"
        )
    return rows
