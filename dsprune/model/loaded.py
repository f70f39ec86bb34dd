"""Check that all weights of a model were found: transformers gives random values to those that are missing."""

import re
from collections.abc import Collection

import torch
from transformers import PreTrainedModel

from dsprune.errors import UserError

__all__ = ["check_loaded"]

WAY_OUT = "use another copy of the model"


_NUMBER = re.compile(r"\.\d+\.")


def check_loaded(
    path: str,
    model: PreTrainedModel,
    missing: Collection[str],
    unexpected: Collection[str],
    *,
    new_head: bool,
) -> None:
    """Check the weights of a model that was just loaded.

    Args:
        path: folder of the model, or its name on the hub.
        model: the model.
        missing: names of the weights that were not there.
        unexpected: names of the weights that the model has no place for. Heads of other tasks may be among them.
        new_head: whether weights outside of the base model may be new. A pooler may always be, since models that were
            trained without one are used with it.

    Raises:
        UserError: a weight was not there, or is not finite, or the files hold more layers than the configuration says.
    """
    base = f"{model.base_model_prefix}."
    lost = sorted(
        name for name in missing if "pooler" not in name and (name.startswith(base) or not new_head)
    )
    if lost:
        raise UserError(
            f"model {path!r}: its files lack {lost[0]} and {len(lost) - 1} other weights of {type(model).__name__}, "
            f"which would be random: {WAY_OUT}, saved under the names of the model itself"
        )
    known = {_NUMBER.sub(".0.", name) for name in model.state_dict()}
    if beyond := sorted(name for name in unexpected if _NUMBER.sub(".0.", name) in known):
        raise UserError(
            f"model {path!r}: its files hold {beyond[0]} and {len(beyond) - 1} other weights of layers that its "
            f"config.json leaves out: correct the number of layers there; model.layers of a recipe chooses among them"
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            count = int((~torch.isfinite(parameter)).sum())
            raise UserError(
                f"model {path!r}: {name} holds {count:,} values that are NaN or infinite: {WAY_OUT}"
            )
