"""What the runs of a suite take from their model: the globs of components, and a target's sparsity."""

from collections.abc import Iterator

from torch import nn

from dsprune.errors import UserError
from dsprune.model.components import COMPONENTS, converted, find_components
from dsprune.model.patterns import patterns_of
from dsprune.model.prunable import choose_weights
from dsprune.recipe import Recipe
from dsprune.utils.text import did_you_mean, percent

__all__ = ["check_components", "component_patterns", "of_prunable"]


def check_components(components: tuple[str, ...]) -> None:
    """Check the names of components.

    Raises:
        UserError: no model has such a component.
    """
    for name in components:
        if name not in COMPONENTS:
            raise UserError(
                f"components: value {name!r}: {did_you_mean(name, COMPONENTS)}choose from {', '.join(COMPONENTS)}"
            )


def component_patterns(model: nn.Module, components: tuple[str, ...]) -> Iterator[str]:
    """Yield globs for the components that the model has."""
    for component in find_components(model):
        if component.name in components:
            yield from patterns_of([tensor.name for tensor in component.tensors])


def of_prunable(recipe: Recipe, model: nn.Module, target: float) -> float:
    """Convert a target of all matrices of the model to a sparsity of the prunable weights.

    Raises:
        UserError: the dense matrices have more weights than the target keeps.
    """
    assert recipe.pruning is not None
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    chosen = recipe.pruning.include, recipe.pruning.exclude, None, recipe.pruning.only
    prunable = sum(tensor.numel for tensor in choose_weights(model, *chosen).tensors)
    sparsity = converted(target, matrices, prunable)
    if sparsity >= 1:
        raise UserError(
            f"{recipe.name}: {target:g} of all matrices cannot be zero when only "
            f"{percent(prunable / matrices, 1)} of them are pruned: leave this --sparsity out for this method"
        )
    return round(sparsity, 6)
