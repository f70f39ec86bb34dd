"""Arithmetic expressions in prefix form, such as `/ + number0 number1 2.0`: their symbols and values."""

import math
import operator
from collections import Counter
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
"""`number0` stands for the first number of the question."""


def evaluate_prefix(expression: Sequence[str], numbers: Sequence[float]) -> float | None:
    """Return the value of an expression; None if it is malformed, divides by zero or is not finite.

    Args:
        expression: operators, slots and constants.
        numbers: values of the slots.

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


def symbols_of(equations: Sequence[Sequence[str]], num_slots: int, *, least_uses: int = 1) -> tuple[str, ...]:
    """Return the operators, `num_slots` slots, and the constants of the equations in ascending order.

    Args:
        equations: lists of symbols.
        num_slots: number of slots.
        least_uses: smallest number of uses of a constant; rarer ones are left out.
    """
    uses = Counter(chain.from_iterable(equations))
    used = [symbol for symbol, count in uses.items() if count >= least_uses and symbol not in OPERATORS]
    constants = sorted((symbol for symbol in used if not symbol.startswith(SLOT)), key=float)
    return (*OPERATORS, *(f"{SLOT}{slot}" for slot in range(num_slots)), *constants)


def _evaluate(symbols: Iterator[str], numbers: Sequence[float]) -> float:
    symbol = next(symbols)
    if symbol in OPERATORS:
        first = _evaluate(symbols, numbers)
        return OPERATORS[symbol](first, _evaluate(symbols, numbers))
    if symbol.startswith(SLOT):
        slot = symbol.removeprefix(SLOT)
        if not slot.isdecimal():  # a minus would count from the end
            raise ValueError(symbol)
        return numbers[int(slot)]
    return float(symbol)
