"""A number that may change during a run: `2.0`, or a straight line from one value to another."""

from collections.abc import Callable
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from dsprune.recipe.span import Span

__all__ = ["Ramp", "within"]

_USAGE = "write a number, or {first: 1.0, final: 4.0, start: 10 %, end: 2 epochs}"


class Ramp(BaseModel):
    """The value `first` until `start`, a straight line to `final` at `end`, and `final` after that.

    A plain number is a constant ramp and is written as a number again.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

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
                raise ValueError(_USAGE) from None
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


def within(least: float, most: float, *, above: bool = False) -> Callable[[Ramp], Ramp]:
    """Return a validator that a ramp stays in [least, most], or in (least, most] if `above`."""

    def check(ramp: Ramp) -> Ramp:
        low, high = sorted((ramp.first, ramp.final))
        if low < least or (above and low == least):
            raise ValueError(f"must be greater than {'' if above else 'or equal to '}{least:g}")
        if high > most:
            raise ValueError(f"must be less than or equal to {most:g}")
        return ramp

    return check
