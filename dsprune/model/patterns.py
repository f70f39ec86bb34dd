"""Match glob patterns of a recipe to a model's parameters; a pattern without effect is an error."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from dsprune.errors import UserError
from dsprune.model.shard import plain_name

__all__ = ["names_of", "parameters_matching", "values_by_pattern"]


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """Return all names of every parameter by its id; a tied weight has several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    return names


def parameters_matching(names: Mapping[int, Sequence[str]], patterns: Sequence[str], field: str) -> set[int]:
    """Return the ids of the parameters that match any of the patterns.

    Args:
        names: all names of every parameter, by its id.
        patterns: glob patterns.
        field: recipe field of the patterns, for messages.

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
        what: what `names` are the names of, for messages.

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
    """Return the parts of names that are similar to the pattern, or else how patterns match."""
    paths = (name.split(".") for aliases in names for name in aliases)
    parts = {
        ".".join(path[i:j]) for path in paths for i in range(len(path)) for j in range(i + 1, len(path) + 1)
    }
    close = get_close_matches(pattern.strip("*."), sorted(parts))
    if close:
        return f": did you mean {' or '.join(repr(part) for part in close)}?"
    return ": a pattern must match the complete name, so a '*' may be missing at an end"
