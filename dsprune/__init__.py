"""Gradual pruning of language models inside DeepSpeed ZeRO."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsprune.errors import RunFailedError, UserError
from dsprune.registry import METHODS, TASKS

if TYPE_CHECKING:
    from dsprune.checkpoint.compact.model import load_compact
    from dsprune.checkpoint.compact.reader import read_compact
    from dsprune.distillation.objective import DistillationLoss
    from dsprune.engine.engine import PruningEngine
    from dsprune.engine.frameworks import pruning
    from dsprune.engine.initialize import initialize
    from dsprune.engine.trainer import TrainerCallback
    from dsprune.recipe import Recipe, load_recipe

__all__ = [
    "DistillationLoss",
    "PruningEngine",
    "Recipe",
    "RunFailedError",
    "TrainerCallback",
    "UserError",
    "initialize",
    "load_compact",
    "load_recipe",
    "pruning",
    "read_compact",
    "register_method",
    "register_task",
]

__version__ = "0.2.0"

register_method = METHODS.register
register_task = TASKS.register

_HOMES = {
    "DistillationLoss": "dsprune.distillation.objective",
    "PruningEngine": "dsprune.engine.engine",
    "TrainerCallback": "dsprune.engine.trainer",
    "initialize": "dsprune.engine.initialize",
    "pruning": "dsprune.engine.frameworks",
    "Recipe": "dsprune.recipe",
    "load_recipe": "dsprune.recipe",
    "load_compact": "dsprune.checkpoint.compact.model",
    "read_compact": "dsprune.checkpoint.compact.reader",
}


def __getattr__(name: str) -> Any:
    """Import on first use: DeepSpeed takes seconds, and `dsprune --help` needs none of it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dsprune' has no attribute {name!r}")
