"""Evaluate the arithmetic of a recipe's `eval(...)`, without Python's `eval`."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

__all__ = ["evaluate"]

Number = int | float

LONGEST = 500
"""Largest number of characters of an expression."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: math.pow(base, exponent),  # of floats: integers could grow without limit
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Number]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "float": float, "int": int, "max": max, "min": min, "round": round,
}  # fmt: skip


def evaluate(expression: str, value_of: Callable[[str], Any]) -> Any:
    """Return the value of an arithmetic expression; a single name may have a value of any type.

    Args:
        expression: numbers, names, `+ - * / // % **`, parentheses, and abs, float, int, max, min, round.
        value_of: returns the value of a name.

    Raises:
        ValueError: it is not a valid expression; the message gives the reason.

    Examples:
        >>> evaluate("num_epochs - 2 * 1.5", {"num_epochs": 30}.__getitem__)
        27.0
    """
    if len(expression) > LONGEST:
        raise ValueError(f"has {len(expression)} characters: shorten it")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return value_of(tree.id)
        return _value(tree, value_of)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("is not an arithmetic expression: write numbers, names and + - * / ( )") from None
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"has no value ({error})") from None


def _value(node: ast.expr, value_of: Callable[[str], Any]) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return _number(value_of(name), name)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
            return _BINARY[type(operation)](_value(left, value_of), _value(right, value_of))
        case ast.UnaryOp(op=operation, operand=operand) if type(operation) in _UNARY:
            return _UNARY[type(operation)](_value(operand, value_of))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(argument, value_of) for argument in arguments))
    raise ValueError(f"holds {ast.unparse(node)!r}, which is not arithmetic: write its value")


def _number(value: Any, name: str) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"holds {name!r}, which is {value!r}, not a number: write its value")
    return value
