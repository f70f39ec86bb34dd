"""Find the weights of a model that a recipe prunes, and check that target and pattern fit them."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from dsprune.errors import UserError
from dsprune.methods.method import find_method
from dsprune.model.compiled import plain_name
from dsprune.model.inputs import is_seen
from dsprune.model.orientation import has_inputs_first
from dsprune.model.prunable import Choice, choose_weights
from dsprune.model.shapes import ShapeOf, plain_shape
from dsprune.model.shard import PrunableTensor
from dsprune.recipe import Pruning
from dsprune.recipe.pattern import UNSTRUCTURED
from dsprune.registry import SCOPES
from dsprune.selection.groups import update_groups

__all__ = ["weights_to_prune"]


def weights_to_prune(model: nn.Module, pruning: Pruning, shape_of: ShapeOf = plain_shape) -> Choice:
    """Return the weights of a model that a recipe prunes.

    Raises:
        UserError: no weight is selected, a target would prune all of them, or pattern or scope do not fit a tensor.
    """
    choice = choose_weights(
        model, pruning.include, pruning.exclude, pruning.sparsities, pruning.only, shape_of=shape_of
    )
    if find_method(pruning.method).reads_inputs:
        _check_seen(model, choice.tensors, pruning.method)
    _check_rows(choice.tensors, pruning)
    if pruning.pattern != UNSTRUCTURED.text:
        _check_orientation(model, choice.tensors, f"pruning.pattern: value {pruning.pattern}", "unstructured")
    elif SCOPES.get(pruning.scope).by_row:
        _check_orientation(model, choice.tensors, f"pruning.scope: value {pruning.scope}", "uniform")
    return choice


def _check_rows(tensors: Sequence[PrunableTensor], pruning: Pruning) -> None:
    """Check for the scope `row` that the target prunes some weights of each row, and not all."""
    for group in update_groups(tensors, pruning, progress=1.0):
        own = tensors[group.tensors[0]].sparsity
        target = pruning.sparsity if own is None else own
        if group.num_rows > 1 and target > 0 and group.num_pruned == 0:
            raise UserError(
                f"pruning.scope: value {pruning.scope}: a sparsity of {target} prunes none of the {group.row} weights "
                f"in a row of {group.name}: raise it, or leave them out with pruning.exclude"
            )


def _owners(
    model: nn.Module, tensors: Sequence[PrunableTensor]
) -> Iterator[tuple[PrunableTensor, Tensor, Sequence[nn.Module]]]:
    """Yield each tensor with its parameter and the modules that have it."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(module)
    weights = {plain_name(name): weight for name, weight in model.named_parameters()}
    for tensor in tensors:
        weight = weights[tensor.name]
        yield tensor, weight, owners[id(weight)]


def _check_seen(model: nn.Module, tensors: Sequence[PrunableTensor], method: str) -> None:
    """Check that a tensor multiplies only inputs of its module."""
    for tensor, weight, modules in _owners(model, tensors):
        if not all(is_seen(module, weight) for module in modules):
            raise UserError(
                f"pruning.method: value {method}: {tensor.name} is of a {type(modules[0]).__name__}, whose "
                f"input is not seen: leave it out with pruning.exclude, or use another method, such as fisher"
            )


def _check_orientation(model: nn.Module, tensors: Sequence[PrunableTensor], field: str, other: str) -> None:
    """Check that the input dimension of every tensor is known."""
    for tensor, _, modules in _owners(model, tensors):
        if all(has_inputs_first(module) is None for module in modules):
            raise UserError(
                f"{field}: {tensor.name} is of a {type(modules[0]).__name__}, and its input dimension is not known: "
                f"use {other}, or leave it out with pruning.exclude"
            )
