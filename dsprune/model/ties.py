"""Tied weights of Hugging Face models: those that the model does not declare."""

import re

from torch import nn
from transformers import PreTrainedModel

from dsprune.model.patterns import names_of

__all__ = ["undeclared_ties"]


def undeclared_ties(model: nn.Module) -> dict[str, str]:
    """Return the other names of tied weights that a Hugging Face model does not declare, each with the first name.

    An example is a block that is used twice. `from_pretrained` does not know of these ties, so a model folder needs the
    weight under each name.
    """
    model = getattr(model, "_orig_mod", model)  # without the compiled wrapper
    if not isinstance(model, PreTrainedModel):
        return {}
    declared = [key for part in model.modules() for key in getattr(part, "_tied_weights_keys", None) or ()]
    found: dict[str, str] = {}
    for names in names_of(model).values():
        undeclared = [name for name in names if not any(re.search(key, name) for key in declared)]
        if len(undeclared) > 1:
            found |= dict.fromkeys(undeclared[1:], undeclared[0])
    return found
