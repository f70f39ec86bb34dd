"""Check that all weights of a model were found: transformers initializes missing ones randomly."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from dsprune.errors import UserError
from dsprune.model.fit import changes

__all__ = ["check_loaded"]

WAY_OUT = "use another copy of the model"

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of weight names in modules wrapped by DistributedDataParallel and torch.compile."""

_NUMBER = re.compile(r"\.\d+\.")


def check_loaded(
    path: str, model: PreTrainedModel, found: Mapping[str, Collection[Any]], *, new_head: bool
) -> None:
    """Check the weights of a model that was just loaded.

    Args:
        path: folder of the model, or its name on the hub.
        model: the model.
        found: transformers' report on the names and shapes of the weights in the files. Unexpected weights may be
            heads of other tasks.
        new_head: whether weights outside of the base model may be new. A pooler may always be new, because models that
            were trained without one are used with it.

    Raises:
        UserError: a weight is missing, has another shape, or is not finite, or the files hold more layers than the
            configuration.
    """
    base, unexpected = f"{model.base_model_prefix}.", found["unexpected_keys"]
    if wrapped := sorted(name for name in unexpected if name.startswith(WRAPPERS)):
        raise UserError(
            f"model {path!r}: the weight {wrapped[0]} is named as in a wrapped module, and transformers would not find "
            "it: save the module that is inside of the wrapper"
        )
    lost = sorted(
        name
        for name in found["missing_keys"]
        if "pooler" not in name and (name.startswith(base) or not new_head)
    )
    if lost:
        raise UserError(
            f"model {path!r}: its files lack {lost[0]} and {len(lost) - 1} other weights of {type(model).__name__}, "
            f"which would be random: {WAY_OUT}, saved under the names of the model itself"
        )
    _check_layers(path, model, unexpected)
    for name, stored, shape in sorted(found["mismatched_keys"]):
        if name.startswith(base) or not changes().new_head:
            raise UserError(
                f"model {path!r}: the weight {name} has the shape {list(stored)} in its file and {list(shape)} by its "
                f"configuration and the task: correct config.json, or choose a model of this task"
            )
    _check_finite(path, model)


def _check_layers(path: str, model: PreTrainedModel, unexpected: Collection[str]) -> None:
    known = {_NUMBER.sub(".0.", name) for name in model.state_dict()}
    if beyond := sorted(name for name in unexpected if _NUMBER.sub(".0.", name) in known):
        raise UserError(
            f"model {path!r}: its files hold {beyond[0]} and {len(beyond) - 1} other weights of layers that its "
            f"config.json leaves out: correct the number of layers there; model.layers of a recipe chooses among them"
        )


def _check_finite(path: str, model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue  # of `without_weights`
        if not parameter.isfinite().all():
            count = int((~torch.isfinite(parameter)).sum())
            raise UserError(
                f"model {path!r}: {name} holds {count:,} values that are NaN or infinite: {WAY_OUT}"
            )
