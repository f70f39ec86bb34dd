"""The settings of a recipe one by one, to say which of them differ."""

from collections.abc import Iterator
from typing import Any

from dsprune.pure.recipe.recipe import Recipe

__all__ = ["settings_of"]


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its dotted key, as `learning_rate.peak`."""
    return dict(_flat(recipe.model_dump(mode="json")))


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
