"""Whether a model, its tokenizer and the task fit together: input lengths, tokens, padding; and what a recipe changes.

A recipe may ask for a new head, or for embeddings of tokens that were added to the tokenizer. `changing` makes what is
loaded inside it so. `set_dropout` changes the dropout of a model that is built already.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import EncoderDecoderConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dsprune.errors import UserError
from dsprune.model.skeleton import is_without_weights

__all__ = [
    "Changes",
    "changes",
    "changing",
    "check_keeps_head",
    "check_lengths",
    "fit_tokens",
    "padding_remarks",
    "set_dropout",
]

POSITIONS = re.compile(r"(^|\.)(position_embeddings|embed_positions|wpe)$")
"""Names of embeddings with one row a position of the input."""


@dataclass(frozen=True)
class Changes:
    """What a recipe changes in the model that it starts from.

    Attributes:
        new_head: replace the head, even if the model has one.
        resize_embeddings: add rows for tokens that the tokenizer has and the model has not.
    """

    new_head: bool = False
    resize_embeddings: bool = False


NO_CHANGES = Changes()

_CHANGES: ContextVar[Changes] = ContextVar("changes", default=NO_CHANGES)


@contextmanager
def changing(asked: Changes) -> Iterator[None]:
    """Have models that are loaded inside changed."""
    token = _CHANGES.set(asked)
    try:
        yield
    finally:
        _CHANGES.reset(token)


def changes() -> Changes:
    """Return the changes of the model that is being loaded."""
    return _CHANGES.get()


def check_keeps_head() -> None:
    """Check that the recipe does not ask for a new head; for tasks that have none to replace.

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
    limits = (tokenizer.model_max_length, *_position_limits(model))
    longest = min((limit for limit in limits if limit > 0), default=max_length)  # XLNet has -1 for none
    if max_length > longest:
        raise UserError(f"task.max_length: {max_length}: the model takes at most {longest} tokens: lower it")


def _position_limits(model: PreTrainedModel) -> Iterator[int]:
    """Yield the number of positions that a model has, by its configuration and by its embeddings."""
    yield getattr(_text_config(model.config), "max_position_embeddings", None) or 0
    is_pair = isinstance(model.config, EncoderDecoderConfig)  # whose decoder reads other tokens
    for name, module in (model.get_encoder() if is_pair else model).named_modules():
        if isinstance(module, nn.Embedding) and POSITIONS.search(name):
            # RoBERTa and its kin count positions from behind the padding's, BART from an offset.
            padding = module.padding_idx
            yield module.num_embeddings - (getattr(module, "offset", 0) if padding is None else padding + 1)


def _text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of what reads the tokenizer's tokens."""
    encoder: Any = config.encoder if isinstance(config, EncoderDecoderConfig) else config
    return cast(PretrainedConfig, encoder)


def fit_tokens(model: PreTrainedModel, path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model the tokenizer's padding token, and rows for its added tokens if the recipe asks for that.

    Raises:
        UserError: the tokenizer has tokens that the model has not.
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
    """Say where the padding token is not the one that the model was made with."""
    theirs, ours = getattr(_text_config(config), "pad_token_id", None), tokenizer.pad_token_id
    if theirs != ours:
        by = "none" if theirs is None else theirs
        yield f"model {path}: its padding token is {by}; the tokenizer's is used, {ours} ({tokenizer.pad_token})"


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set every dropout probability of a model, in its modules and in its configuration.

    Layers that are dropped whole (`layerdrop`) keep their probability.

    Args:
        model: changed in place. A folder saved from it has the new probability in its configuration.
        probability: None changes nothing.

    Raises:
        UserError: the model has no dropout that could be set.
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
            f"model.dropout: {probability:g}: {type(model).__name__} has no dropout that could be set: leave this out"
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
