"""The weights of a model that a recipe prunes, and whether target and pattern fit them."""

from collections.abc import Sequence

from torch import nn

from dsprune.errors import UserError
from dsprune.model.orientation import has_inputs_first
from dsprune.model.prunable import Choice, choose_weights
from dsprune.model.shard import PrunableTensor, ShapeOf, plain_name, plain_shape
from dsprune.recipe import Pruning
from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.selection.groups import update_groups

__all__ = ["weights_to_prune"]


def weights_to_prune(model: nn.Module, pruning: Pruning, shape_of: ShapeOf = plain_shape) -> Choice:
    """Return the weights of a model that a recipe prunes.

    Raises:
        UserError: there are none, a target leaves none of them, or the pattern does not fit one.
    """
    choice = choose_weights(
        model, pruning.include, pruning.exclude, pruning.sparsities, pruning.only, shape_of=shape_of
    )
    update_groups(choice.tensors, pruning, progress=1.0)
    if pruning.pattern != UNSTRUCTURED.text:
        _check_orientation(model, choice.tensors, pruning.pattern)
    return choice


def _check_orientation(model: nn.Module, tensors: Sequence[PrunableTensor], pattern: str) -> None:
    """Check that it is known of every tensor which dimension is the input."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(module)
    keys = {plain_name(name): id(weight) for name, weight in model.named_parameters()}
    for tensor in tensors:
        modules = owners[keys[tensor.name]]
        if all(has_inputs_first(module) is None for module in modules):
            raise UserError(
                f"pruning.pattern: value {pattern}: {tensor.name} is of a {type(modules[0]).__name__}, of which is not "
                f"known which dimension is the input: use unstructured, or leave it out with pruning.exclude"
            )
