"""Match a recipe's glob patterns to a model's parameters; a pattern without effect is an error."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dsprune.errors import UserError
from dsprune.model.blocks import NORM, TABLE, block_matrices, is_vector
from dsprune.model.compiled import plain_name
from dsprune.model.shapes import ShapeOf, plain_shape

__all__ = ["names_of", "parameter_groups", "parameters_matching", "patterns_of", "values_by_pattern"]


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """Return all names of every parameter by its id; a tied weight has several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    return names


def parameters_matching(names: Mapping[int, Sequence[str]], patterns: Sequence[str], field: str) -> set[int]:
    """Return the ids of the parameters that match any pattern of a recipe's field, given all names of each by its id.

    Raises:
        UserError: a pattern matches no parameter.
    """
    return {key for pattern in patterns for key in _matching(names, pattern, field, "parameter of the model")}


def values_by_pattern(
    names: Mapping[int, Sequence[str]], patterns: Mapping[str, float], field: str, what: str
) -> dict[int, float]:
    """Return the value of each parameter that a pattern matches, by its id; the first matching pattern counts.

    Args:
        names: all names of every parameter, by its id.
        patterns: value by glob pattern.
        field: recipe field of the patterns, for messages.
        what: noun for the named objects, for messages.

    Raises:
        UserError: a pattern matches no parameter, or only parameters that earlier patterns match.
    """
    values: dict[int, float] = {}
    for pattern, value in patterns.items():
        ids = _matching(names, pattern, field, what)
        if all(key in values for key in ids):
            raise UserError(
                f"{field}: {pattern!r} has no effect, earlier patterns match all its parameters: put it before them"
            )
        for key in ids:
            values.setdefault(key, value)
    return values


def _matching(names: Mapping[int, Sequence[str]], pattern: str, field: str, what: str) -> list[int]:
    """Return the ids of the parameters with a name that matches the pattern."""
    ids = [key for key, aliases in names.items() if any(fnmatchcase(name, pattern) for name in aliases)]
    if not ids:
        raise UserError(f"{field}: {pattern!r} matches no {what}{_hint(pattern, names.values())}")
    return ids


def _hint(pattern: str, names: Iterable[Sequence[str]]) -> str:
    """Return the parts of names that are similar to the pattern; otherwise how patterns match."""
    paths = (name.split(".") for aliases in names for name in aliases)
    parts = {
        ".".join(path[i:j]) for path in paths for i in range(len(path)) for j in range(i + 1, len(path) + 1)
    }
    close = get_close_matches(pattern.strip("*."), sorted(parts))
    if close:
        return f": did you mean {' or '.join(repr(part) for part in close)}?"
    return ": a pattern must match the complete name, so a '*' may be missing at an end"


def patterns_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return globs that match these names; names that differ in numbers between dots share one glob.

    A `*` would also match dots, and other tensors.

    Examples:
        >>> patterns_of(["layer.0.fc1.weight", "layer.1.fc1.weight", "layer.2.fc1.weight", "layer.10.fc1.weight"])
        ('layer.[0-2].fc1.weight', 'layer.10.fc1.weight')
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        alike = re.sub(r"(?<![^.])\d+(?=\.)", lambda number: "0" * len(number[0]), name)
        groups.setdefault(alike, []).append(name)
    return tuple("".join(map(_one_of, zip(*group, strict=True))) for group in groups.values())


def _one_of(characters: Iterable[str]) -> str:
    """Return a glob that matches one of these characters, digits if they differ."""
    found = sorted(set(characters))
    if len(found) < 3:
        return found[0] if len(found) == 1 else f"[{''.join(found)}]"
    is_range = ord(found[-1]) - ord(found[0]) == len(found) - 1
    return f"[{found[0]}-{found[-1]}]" if is_range else f"[{''.join(found)}]"


def parameter_groups(
    model: nn.Module,
    peak: float | None,
    scale: Mapping[str, float],
    shape_of: ShapeOf = plain_shape,
    decayed: str = "matrices",
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups for a torch optimizer.

    Args:
        model: the model; its tensors may be meta.
        peak: highest learning rate of the parameters that no pattern matches; their groups come first.
        scale: factor on the peak by glob pattern; the first pattern that matches a parameter counts.
        shape_of: returns the full shape of a parameter, which may be partitioned.
        decayed: parameters with weight decay: `matrices` (all except biases and norms) or `all`.

    Raises:
        UserError: a pattern has no effect, or `scale` is given without `peak`.
    """
    if scale and peak is None:
        raise UserError("learning_rate.scale: there is no peak to scale: give learning_rate.peak too")
    factors = values_by_pattern(names_of(model), scale, "learning_rate.scale", "parameter of the model")
    kinds = block_matrices(model, shape_of)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = kinds.get(id(parameter)) in (NORM, TABLE)
            is_without = decayed == "matrices" and (is_table or is_vector(name, shape_of(parameter)))
            groups.setdefault((factors.get(id(parameter), 1.0), is_without), []).append(parameter)
    order = sorted(groups, key=lambda key: (key[0] != 1, key))
    return [_group(groups[key], peak, *key) for key in order]


def _group(
    parameters: list[nn.Parameter], peak: float | None, factor: float, is_without: bool
) -> dict[str, Any]:
    """Return a group with the settings that differ from the optimizer's."""
    group: dict[str, Any] = {"params": parameters}
    if factor != 1 and peak is not None:
        group["lr"] = peak * factor
    if is_without:
        group["weight_decay"] = 0.0
    return group
