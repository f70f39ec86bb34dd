"""A length of training with its unit: `2 epochs`, `10 %`, `500 steps`."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["Span"]

Unit = Literal["steps", "epochs", "%"]


# A number as Python prints it, without a positive exponent: nothing that overflows to infinity.
_PATTERN = r"(\d+(?:\.\d+)?(?:e-\d+)?) *(steps?|epochs?|%)"


_HOW = "write '500 steps', '2 epochs', '10 %' or a bare whole number of steps"


@dataclass(frozen=True)
class Span:
    """A length of training, at least zero.

    Attributes:
        amount: how many of the unit.
        unit: optimizer steps, epochs of the training data, or per cent of the whole run.
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, value: Any) -> "Span":
        """Read what a recipe says.

        Examples:
            >>> Span.parse("2 epochs")
            Span(amount=2.0, unit='epochs')
            >>> Span.parse(500)
            Span(amount=500.0, unit='steps')
        """
        if isinstance(value, Span):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(float(value), "steps")
        match = re.fullmatch(_PATTERN, value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(_HOW)
        amount = float(match[1])
        unit = next(unit for unit in get_args(Unit) if unit.startswith(match[2]))
        if unit == "steps" and not amount.is_integer():
            raise ValueError(_HOW)
        return cls(amount, unit)

    def __str__(self) -> str:
        return f"{int(self.amount) if self.amount % 1 == 0 else self.amount} {self.unit}"

    def length(self, steps_per_epoch: int, total_steps: int) -> float:
        """The same length in steps, not rounded: what multiples are taken of."""
        unit_steps = {"steps": 1.0, "epochs": float(steps_per_epoch), "%": total_steps / 100}
        return self.amount * unit_steps[self.unit]

    def to_steps(self, steps_per_epoch: int, total_steps: int) -> int:
        """The same length in whole steps, rounded to the nearest."""
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
