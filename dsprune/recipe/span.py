"""A length of training with its unit: `2 epochs`, `10 %`, `500 steps`."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["PositiveSpan", "Span"]

Unit = Literal["steps", "epochs", "%"]

_PATTERN = r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?) *(steps?|epochs?|%)"

LONGEST = 2**32 - 1
"""Largest number of units."""

_USAGE = "write '500 steps', '2 epochs', '10 %' or a bare whole number of steps"


@dataclass(frozen=True)
class Span:
    """A length of training, at least zero.

    Attributes:
        amount: number of units.
        unit: optimizer steps, epochs of the training data, or percent of the run.
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, value: Any) -> "Span":
        """Read a span as a recipe writes it.

        Examples:
            >>> Span.parse("2 epochs")
            Span(amount=2.0, unit='epochs')
            >>> Span.parse(500)
            Span(amount=500.0, unit='steps')
        """
        if isinstance(value, Span):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(_within_longest(value), "steps")
        match = re.fullmatch(_PATTERN, value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(_USAGE)
        amount = _within_longest(float(match[1]))
        unit = next(unit for unit in get_args(Unit) if unit.startswith(match[2]))
        if unit == "steps" and not amount.is_integer():
            raise ValueError(_USAGE)
        return cls(amount, unit)

    def __str__(self) -> str:
        return f"{int(self.amount) if self.amount % 1 == 0 else self.amount} {self.unit}"

    def length(self, steps_per_epoch: int, total_steps: int) -> float:
        """Return the length in steps, not rounded, so that multiples of it are exact."""
        unit_steps = {"steps": 1.0, "epochs": float(steps_per_epoch), "%": total_steps / 100}
        return self.amount * unit_steps[self.unit]

    def to_steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """Return the length in steps, rounded to the nearest whole number."""
        return round(self.length(steps_per_epoch, total_steps))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        to_text = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=to_text)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        text = {"type": "string", "pattern": f"^ *{_PATTERN} *$"}
        return {"anyOf": [{"type": "integer", "minimum": 0}, text]}


def _within_longest(amount: float) -> float:
    if amount > LONGEST:
        raise ValueError(f"must be at most {LONGEST}")
    return float(amount)


def _check_positive(span: Span) -> Span:
    if span.amount == 0:
        raise ValueError("must be longer than zero")
    return span


PositiveSpan = Annotated[Span, AfterValidator(_check_positive)]
"""A span that is longer than zero."""
