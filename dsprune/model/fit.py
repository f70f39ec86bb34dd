"""Check that a model, its tokenizer and the task fit together, and change the model as the recipe asks.

A recipe can request a new head, or embeddings of tokens that were added to the tokenizer. `changing` applies this to
models that are loaded inside it. `keep_layers` and `set_dropout` change an existing model.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from transformers import EncoderDecoderConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.gts import GtsConfig
from dsprune.model.skeleton import is_without_weights
from dsprune.utils.text import short

__all__ = [
    "Changes",
    "changes",
    "changing",
    "check_keeps_head",
    "check_lengths",
    "fit_tokens",
    "keep_layers",
    "layer_stack",
    "padding_remarks",
    "set_dropout",
]

POSITIONS = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)$")
"""Names of embeddings with one row per position of the input."""


PAIRS = (EncoderDecoderConfig, GtsConfig)
"""Configurations of an encoder with a decoder of other tokens."""


@dataclass(frozen=True)
class Changes:
    """The changes of a recipe to its initial model.

    Attributes:
        new_head: replace the head, even if the model has one.
        resize_embeddings: add rows for tokens of the tokenizer that the model lacks.
    """

    new_head: bool = False
    resize_embeddings: bool = False


M = TypeVar("M", bound=PreTrainedModel)

NO_CHANGES = Changes()

_CHANGES: ContextVar[Changes] = ContextVar("changes", default=NO_CHANGES)


@contextmanager
def changing(asked: Changes) -> Iterator[None]:
    """Apply changes to models that are loaded inside this context."""
    token = _CHANGES.set(asked)
    try:
        yield
    finally:
        _CHANGES.reset(token)


def changes() -> Changes:
    """Return the changes of the model that is being loaded."""
    return _CHANGES.get()


def check_keeps_head() -> None:
    """Check that the recipe does not request a new head; for tasks that have none to replace.

    Raises:
        UserError: it does.
    """
    if changes().new_head:
        raise UserError("model.new_head: true: the models of this task have no head to replace: leave it out")


def check_lengths(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Check that a model and its tokenizer accept inputs of `max_length` tokens.

    Raises:
        UserError: they do not.
    """
    limits = (_limit("model_max_length", tokenizer.model_max_length), *_position_limits(model))
    longest = min((limit for limit in limits if limit > 0), default=max_length)  # XLNet has -1 for none
    if max_length > longest:
        raise UserError(f"task.max_length: {max_length}: the model takes at most {longest} tokens: lower it")


def _limit(name: str, value: Any) -> int | float:
    """Return the largest number of tokens in a file of the model."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"model: {name}: {short(value)} is not a number of tokens: correct it in the model's folder"
        )
    return value


def _position_limits(model: PreTrainedModel) -> Iterator[int | float]:
    """Yield the number of positions of a model, from its configuration and from its embeddings."""
    name = "max_position_embeddings"
    yield _limit(name, getattr(_text_config(model.config), name, None) or 0)
    is_pair = isinstance(model.config, PAIRS)
    for name, module in (model.get_encoder() if is_pair else model).named_modules():
        if isinstance(module, nn.Embedding) and POSITIONS.search(name):
            # RoBERTa and similar models count positions from the one after the padding's, BART from an offset.
            padding = module.padding_idx
            yield module.num_embeddings - (getattr(module, "offset", 0) if padding is None else padding + 1)


def _text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the part that reads the tokenizer's tokens."""
    encoder: Any = config.encoder if isinstance(config, PAIRS) else config
    return cast(PretrainedConfig, encoder)


def fit_tokens(model: PreTrainedModel, path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the model's padding token to the tokenizer's, and add rows for added tokens if the recipe requests them.

    Raises:
        UserError: the tokenizer has tokens that the model lacks.
    """
    _text_config(model.config).pad_token_id = tokenizer.pad_token_id
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if len(tokenizer) <= rows:
        return
    if not changes().resize_embeddings:
        raise UserError(
            f"model {path!r}: has embeddings for {rows:,} tokens, and its tokenizer has {len(tokenizer):,}: set "
            f"model.resize_embeddings: true to add rows, or use the tokenizer that the model was trained with"
        )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=not is_without_weights())


def padding_remarks(path: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a line if the padding token differs from the model's original one."""
    theirs, ours = getattr(_text_config(config), "pad_token_id", None), tokenizer.pad_token_id
    if theirs != ours:
        by = "none" if theirs is None else theirs
        yield f"model {path}: its padding token is {by}, the tokenizer's {ours} ({tokenizer.pad_token}), which is used"


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set every dropout probability of a model, in its modules and in its configuration; None changes nothing.

    Layers that are dropped whole (`layerdrop`) keep their probability. A folder saved from the model has the new one in
    its configuration.

    Raises:
        UserError: the model has no dropout to set.
    """
    if probability is None:
        return
    places = [(module, name) for module in model.modules() for name in _dropout_names(module)]
    for module, name in places:
        setattr(module, name, probability)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            for name in _dropout_names(part.config):
                setattr(part.config, name, probability)
    if probability and not places:
        raise UserError(
            f"model.dropout: {probability:g}: {type(model).__name__} has no dropout to set: leave this out"
        )


def _dropout_names(owner: nn.Module | PretrainedConfig) -> list[str]:
    """Return the attributes that hold a dropout probability; some modules call the function themselves."""
    if isinstance(owner, nn.modules.dropout._DropoutNd):
        return ["p"]
    return [name for name, value in vars(owner).items() if _is_probability(value) and _is_dropout(name)]


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _is_dropout(name: str) -> bool:
    return ("dropout" in name or name.endswith(("pdrop", "drop_prob"))) and "layer" not in name


def keep_layers(model: M, layers: Sequence[int] | None) -> M:
    """Keep only some layers of a model, in place, by their numbers from 0 and in their new order; None keeps all.

    Raises:
        UserError: a layer does not exist, or the model has several stacks of layers.
    """
    if layers is None:
        return model
    name, stack = layer_stack(model)
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
    config: Any = _text_config(model.config)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[layer] for layer in layers]
    config.num_hidden_layers = len(layers)
    return model


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the layers of a model, with their name.

    Raises:
        UserError: it has several stacks of layers, or none.
    """
    stacks = list(_stacks(model, ""))
    if len(stacks) != 1:
        raise UserError(
            f"model.layers: {type(model).__name__} has {len(stacks)} stacks of layers: leave this out, only models "
            "with one stack support it"
        )
    return stacks[0]


def _stacks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of containers of one class, with their names."""
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
