"""The optimizer's parameter groups, by weight decay and learning rate."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dsprune.errors import UserError
from dsprune.model.patterns import names_of, values_by_pattern
from dsprune.model.shard import ShapeOf, plain_shape

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module, peak: float | None, scale: Mapping[str, float], shape_of: ShapeOf = plain_shape
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups for a torch optimizer; biases and norms have no weight decay.

    Args:
        model: the model; its tensors may be meta.
        peak: highest learning rate of the parameters that no pattern matches; their groups come first.
        scale: factor on the peak by glob pattern; the first pattern that matches a parameter counts.
        shape_of: returns the full shape of a parameter, which may be partitioned.

    Raises:
        UserError: a pattern has no effect, or `scale` is given without `peak`.
    """
    if scale and peak is None:
        raise UserError("learning_rate.scale: there is no peak to scale: give learning_rate.peak too")
    factors = values_by_pattern(names_of(model), scale, "learning_rate.scale", "parameter of the model")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = factors.get(id(parameter), 1.0), len(shape_of(parameter)) <= 1
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: (key[0] != 1, key))
    return [_group(groups[key], peak, *key) for key in order]


def _group(
    parameters: list[nn.Parameter], peak: float | None, factor: float, is_vector: bool
) -> dict[str, Any]:
    """Return a group with the settings that differ from the optimizer's own."""
    group: dict[str, Any] = {"params": parameters}
    if factor != 1 and peak is not None:
        group["lr"] = peak * factor
    if is_vector:
        group["weight_decay"] = 0.0
    return group
