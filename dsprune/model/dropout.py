"""The dropout of a model that is built already."""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["set_dropout"]


def set_dropout(model: PreTrainedModel, probability: float | None) -> None:
    """Set every dropout probability of a model, in its modules and in its configuration.

    Layers that are dropped whole (`layerdrop`) keep their probability.

    Args:
        model: changed in place. A folder saved from it has the new probability in its configuration.
        probability: None changes nothing.
    """
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = probability
        _set(module, probability)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            _set(part.config, probability)


def _set(owner: nn.Module | PretrainedConfig, probability: float) -> None:
    """Set the attributes that hold a dropout probability, for modules that call the function themselves."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, float) and _is_dropout(name):
            setattr(owner, name, probability)


def _is_dropout(name: str) -> bool:
    return ("dropout" in name or name.endswith(("pdrop", "drop_prob"))) and "layer" not in name
