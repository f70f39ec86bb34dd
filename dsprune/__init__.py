"""Gradual magnitude pruning of language models inside DeepSpeed ZeRO."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsprune.errors import UserError
from dsprune.registry import METHODS, TASKS

if TYPE_CHECKING:
    from dsprune.engine.engine import PruningEngine
    from dsprune.engine.initialize import initialize
    from dsprune.recipe import Recipe, load_recipe

__all__ = [
    "PruningEngine",
    "Recipe",
    "UserError",
    "initialize",
    "load_recipe",
    "register_method",
    "register_task",
]

__version__ = "0.2.0"

register_method = METHODS.register
register_task = TASKS.register

_HOMES = {
    "PruningEngine": "dsprune.engine.engine",
    "initialize": "dsprune.engine.initialize",
    "Recipe": "dsprune.recipe",
    "load_recipe": "dsprune.recipe",
}


def __getattr__(name: str) -> Any:
    """Import on first use: DeepSpeed takes seconds, and `dsprune --help` needs none of it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dsprune' has no attribute {name!r}")
