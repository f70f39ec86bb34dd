"""Gradual magnitude pruning of language models inside DeepSpeed ZeRO."""

from typing import TYPE_CHECKING, Any

from dsprune.errors import UserError

if TYPE_CHECKING:
    from dsprune.engine.engine import PruningEngine, initialize
    from dsprune.pure.recipe import Recipe, load_recipe

__all__ = ["PruningEngine", "Recipe", "UserError", "initialize", "load_recipe"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: DeepSpeed takes seconds, and `dsprune --help` needs none of it."""
    if name in ("PruningEngine", "initialize"):
        from dsprune.engine import engine

        return getattr(engine, name)
    if name in ("Recipe", "load_recipe"):
        from dsprune.pure import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'dsprune' has no attribute {name!r}")
