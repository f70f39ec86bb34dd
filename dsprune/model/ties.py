"""Tied weights of Hugging Face models: those that the model does not declare."""

import re

from torch import nn
from transformers import PreTrainedModel

from dsprune.model.compiled import plain_module
from dsprune.model.patterns import names_of

__all__ = ["describe_ties", "undeclared_ties"]


def undeclared_ties(model: nn.Module) -> dict[str, str]:
    """Return the other names of tied weights that a Hugging Face model does not declare, each with the first name.

    An example is a block that is used twice. `from_pretrained` does not know of these ties, so a model folder needs the
    weight under each name.
    """
    model = plain_module(model)
    if not isinstance(model, PreTrainedModel):
        return {}
    declared = [key for part in model.modules() for key in getattr(part, "_tied_weights_keys", None) or ()]
    found: dict[str, str] = {}
    for names in names_of(model).values():
        undeclared = [name for name in names if not any(re.search(key, name) for key in declared)]
        if len(undeclared) > 1:
            found |= dict.fromkeys(undeclared[1:], undeclared[0])
    return found


def describe_ties(model: nn.Module) -> str | None:
    """Describe ties that a Hugging Face model does not declare, with the way out; None if there are none.

    The Trainer and Accelerate save such a model at ZeRO stages 0 to 2, where they copy each weight, but not at stage 3.
    """
    for other, first in undeclared_ties(model).items():
        return (
            f"model: {other} and {first} are one weight, which {type(model).__name__} does not declare: the Trainer "
            f"and Accelerate cannot save it at ZeRO stage 3: add {{{other!r}: {first!r}}} to its _tied_weights_keys "
            f"and set config.tie_word_embeddings=True, or save with engine.save_model"
        )
    return None
