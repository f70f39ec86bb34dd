"""Keep some of a model's layers and remove the others."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from dsprune.errors import UserError

__all__ = ["keep_layers"]

M = TypeVar("M", bound=PreTrainedModel)


def keep_layers(model: M, layers: Sequence[int] | None) -> M:
    """Keep only some layers of a model, in place.

    Args:
        model: a model with one stack of layers.
        layers: numbers of the layers to keep, from 0, in their new order; None keeps all.

    Raises:
        UserError: there is no such layer, or the model has several stacks of layers.
    """
    if layers is None:
        return model
    stacks = list(_stacks(model, ""))
    if len(stacks) != 1:
        raise UserError(
            f"model.layers: {type(model).__name__} has {len(stacks)} stacks of layers: leave this out, only models "
            "with one stack support it"
        )
    ((name, stack),) = stacks
    missing = [layer for layer in layers if layer >= len(stack)]
    if missing or not layers or len(set(layers)) < len(layers):
        raise UserError(
            f"model.layers: {list(layers)}: the model has layers 0 to {len(stack) - 1}: name some of them, each once"
        )
    kept = nn.ModuleList(stack[layer] for layer in layers)
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # the layer's place in a decoder's cache
                module.layer_idx = place  # type: ignore[assignment]
    model.set_submodule(name, kept)
    kinds = getattr(model.config, "layer_types", None)
    if kinds:
        model.config.layer_types = [kinds[layer] for layer in layers]
    model.config.num_hidden_layers = len(layers)
    return model


def _stacks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of modules of one class that have modules of their own, with their names."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}".strip(".")
        if (
            isinstance(child, nn.ModuleList)
            and len({type(layer) for layer in child}) == 1
            and any(child[0].children())
        ):
            yield path, child
        else:
            yield from _stacks(child, path)
