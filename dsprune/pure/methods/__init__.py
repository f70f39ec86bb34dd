"""Pruning methods, one a file: each gives the scores of a shard, lowest pruned first."""

from dsprune.errors import UserError
from dsprune.pure.methods.context import Method, ShardContext
from dsprune.pure.methods.magnitude import Magnitude
from dsprune.pure.methods.random import Random

__all__ = ["METHODS", "Method", "ShardContext", "get_method"]

METHODS: dict[str, type[Method]] = {"magnitude": Magnitude, "random": Random}


def get_method(name: str) -> Method:
    """Returns the method of that name.

    Raises:
        UserError: there is none.
    """
    if name not in METHODS:
        raise UserError(f"pruning.method: there is no {name!r}: choose one of {', '.join(sorted(METHODS))}")
    return METHODS[name]()
