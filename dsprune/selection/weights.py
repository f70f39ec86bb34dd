"""The weights of a model that a recipe prunes, and whether target and pattern fit them."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dsprune.errors import UserError
from dsprune.model.prunable import Choice, choose_weights
from dsprune.model.shard import PrunableTensor, ShapeOf, plain_name, plain_shape
from dsprune.recipe import Pruning
from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.selection.groups import update_groups

__all__ = ["weights_to_prune"]

INPUTS_LAST = (nn.Linear, nn.MultiheadAttention, _ConvNd)
"""Modules whose weights have outputs first, and inputs last if the kernel is of width 1."""


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
        _check_inputs_last(model, choice.tensors, pruning.pattern)
    return choice


def _check_inputs_last(model: nn.Module, tensors: Sequence[PrunableTensor], pattern: str) -> None:
    """Check that the last dimension of every tensor is known to be the input, as of `nn.Linear`."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(module)
    keys = {plain_name(name): id(weight) for name, weight in model.named_parameters()}
    for tensor in tensors:
        modules = owners[keys[tensor.name]]
        if not any(isinstance(module, INPUTS_LAST) for module in modules):
            raise UserError(
                f"pruning.pattern: value {pattern}: {tensor.name} is of a {type(modules[0]).__name__}, of which is not "
                f"known whether inputs come last: use unstructured, or leave it out with pruning.exclude"
            )
