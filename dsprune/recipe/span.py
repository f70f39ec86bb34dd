"""A length of training with its unit (`2 epochs`, `10 %`, `500 steps`), and a number that changes during training."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from dsprune.recipe.section import LARGEST, Section

__all__ = ["PositiveSpan", "Ramp", "Span", "within"]

Unit = Literal["steps", "epochs", "%"]

_PATTERN = r"(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?) *(steps?|epochs?|%)"

_USAGE = "write '500 steps', '2 epochs', '10 %' or a bare whole number of steps"

_RAMP_USAGE = "write a number, or {first: 1.0, final: 4.0, start: 10 %, end: 2 epochs}"


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
    if amount > LARGEST:
        raise ValueError(f"must be at most {LARGEST}")
    return float(amount)


def _check_positive(span: Span) -> Span:
    if span.amount == 0:
        raise ValueError("must be longer than zero")
    return span


PositiveSpan = Annotated[Span, AfterValidator(_check_positive)]
"""A span that is longer than zero."""


class Ramp(Section):
    """The value `first` until `start`, a straight line to `final` at `end`, and `final` after that.

    A plain number is a constant ramp and is written as a number again.
    """

    first: float
    """Value until `start`."""

    final: float
    """Value from `end` on."""

    start: Span = Span(0.0, "steps")
    """Where the line begins. Default: `0 steps`."""

    end: Span = Span(100.0, "%")
    """Where the line ends. If it is not after `start`, the value jumps there. Default: `100 %`, the end of the run."""

    @property
    def is_constant(self) -> bool:
        """Whether the value never changes."""
        return self.first == self.final

    def at(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        """Return the value at step `step`.

        Examples:
            >>> ramp = Ramp(first=1.0, final=4.0, start="10 %", end="2 epochs")
            >>> [ramp.at(step, steps_per_epoch=20, total_steps=100) for step in (0, 10, 20, 40, 99)]
            [1.0, 1.0, 2.0, 4.0, 4.0]
        """
        start, end = (span.to_steps(steps_per_epoch, total_steps) for span in (self.start, self.end))
        if step >= end:
            return self.final
        progress = max(0, step - start) / max(1, end - start)
        return self.first + (self.final - self.first) * progress

    @model_validator(mode="wrap")
    @classmethod
    def _number_or_section(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Self:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = {"first": value, "final": value}
        try:
            ramp: Self = validate(value)
            return ramp
        except ValidationError as error:
            if error.errors()[0]["type"] == "model_type":
                raise ValueError(_RAMP_USAGE) from None
            raise

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> Any:
        return self.first if self.is_constant else serialize(self)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # The serializer has no type annotation to derive a schema from; it returns what the validator accepts.
        schema: Any = core_schema
        inner = {key: value for key, value in schema["schema"].items() if key != "serialization"}
        section: Any = {**schema, "schema": inner}
        return {"anyOf": [{"type": "number"}, handler(section)]}


def within(most: float, *, above_zero: bool = False) -> Callable[[Ramp], Ramp]:
    """Return a validator that a ramp stays in [0, most], or in (0, most] if `above_zero`."""

    def check(ramp: Ramp) -> Ramp:
        low, high = sorted((ramp.first, ramp.final))
        if low < 0 or (above_zero and low == 0):
            raise ValueError(f"must be greater than {'' if above_zero else 'or equal to '}0")
        if high > most:
            raise ValueError(f"must be less than or equal to {most:g}")
        return ramp

    return check
