"""Arithmetic in prefix form, such as `/ + number0 number1 2.0`: its symbols and its value."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

__all__ = ["OPERATORS", "SLOT", "evaluate_prefix", "symbols_of"]

OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


SLOT = "number"
"""`number0` is the first number of the question."""


def evaluate_prefix(expression: Sequence[str], numbers: Sequence[float]) -> float | None:
    """The value of an expression; None where it has none: it is malformed, or divides by zero.

    Args:
        expression: operators, slots and constants.
        numbers: what the slots stand for.

    Examples:
        >>> evaluate_prefix("/ + number0 number1 2.0".split(), [50, 60])
        55.0
    """
    symbols = iter(expression)
    try:
        value = _evaluate(symbols, numbers)
    except (StopIteration, ArithmeticError, ValueError, IndexError, RecursionError):
        return None
    return value if next(symbols, None) is None and math.isfinite(value) else None


def _evaluate(symbols: Iterator[str], numbers: Sequence[float]) -> float:
    symbol = next(symbols)
    if symbol in OPERATORS:
        first = _evaluate(symbols, numbers)
        return OPERATORS[symbol](first, _evaluate(symbols, numbers))
    if symbol.startswith(SLOT):
        return numbers[int(symbol.removeprefix(SLOT))]
    return float(symbol)


def symbols_of(equations: Sequence[Sequence[str]], num_slots: int) -> tuple[str, ...]:
    """The operators, so many slots, and the constants of some equations in the order of their values."""
    used = set(chain.from_iterable(equations)) - OPERATORS.keys()
    constants = sorted((symbol for symbol in used if not symbol.startswith(SLOT)), key=float)
    return (*OPERATORS, *(f"{SLOT}{slot}" for slot in range(num_slots)), *constants)
