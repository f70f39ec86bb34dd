"""The section `compression_training` of older ds_configs, and the recipe that replaces it."""

from collections.abc import Iterator
from typing import Any

__all__ = ["replaced_by_recipe"]


def replaced_by_recipe(config: dict[str, Any]) -> Iterator[str]:
    """Yield a message on a section `compression_training`, which DeepSpeed has removed."""
    section = config.get("compression_training")
    if section is None:
        return
    ratios = sorted(set(_dense_ratios(section)))
    sparsities = [f"pruning={{sparsity: {1 - ratio:g}}} for dense_ratio={ratio:g}" for ratio in ratios]
    recipe = ", ".join(sparsities) or "pruning={sparsity: 0.9}"
    yield (
        f"ds_config: compression_training: DeepSpeed has removed it, and the recipe replaces it: set {recipe} in the "
        f"recipe (its fields include and exclude select modules), and remove the section"
    )


def _dense_ratios(section: Any) -> Iterator[float]:
    """Yield every `dense_ratio` below a section."""
    if isinstance(section, dict):
        for key, value in section.items():
            if key == "dense_ratio" and isinstance(value, int | float):
                yield float(value)
            else:
                yield from _dense_ratios(value)
