"""What a store holds of each output of the teacher."""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Kind", "Output", "StoreSpec", "Strict"]

Kind = Literal["full", "topk", "hidden"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Strict(BaseModel):
    """No unknown fields, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(Strict):
    """One output of the teacher; a record holds a block of its rows, each one softmax over `classes`.

    Attributes:
        classes: width of a row. Narrower rows are filled up with -inf.
        hidden: width of the last linear layer's input; kind `hidden` only.
    """

    classes: int = Field(ge=1)
    hidden: int | None = Field(default=None, ge=1)


class StoreSpec(Strict):
    """What is stored, and how.

    Attributes:
        kind: `full`, all logits; `topk`, the k largest and the mass of the rest; `hidden`, the input of the
            last linear layer, and once that layer.
        outputs: the teacher's outputs by name.
        dtype: of logits or hidden states.
        k: kind `topk`: how many; of fewer classes, all.
        temperatures: kind `topk`: for which the mass of the rest is kept.
        head_dtype: kind `hidden`: of the layer's weights.
    """

    kind: Kind
    outputs: dict[str, Output] = Field(min_length=1)
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    k: int | None = Field(default=None, ge=1)
    temperatures: tuple[float, ...] = ()
    head_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.kind == "topk") != (self.k is not None and bool(self.temperatures)):
            raise ValueError("k and temperatures are what kind topk needs, and no other kind takes")
        if any(temperature <= 0 for temperature in self.temperatures):
            raise ValueError("temperatures must be above 0")
        if any((self.kind == "hidden") != (output.hidden is not None) for output in self.outputs.values()):
            raise ValueError(
                "hidden, the width, is what each output of kind hidden needs, and no other takes"
            )
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch calls it."""
        return DTYPES[self.dtype]

    @property
    def torch_head_dtype(self) -> torch.dtype:
        """`head_dtype` as torch calls it."""
        return DTYPES[self.head_dtype]
