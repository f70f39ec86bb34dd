"""Glob patterns over the names of a model's parameters, as recipes have them; one without effect is an error."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from dsprune.errors import UserError

__all__ = ["names_of", "parameters_matching", "values_by_pattern"]


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """All names of every parameter, by its id (tied weights have several)."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def parameters_matching(names: Mapping[int, Sequence[str]], patterns: Sequence[str], field: str) -> set[int]:
    """Ids of the parameters that match any of `patterns`, each of which must match one."""
    matched: set[int] = set()
    for pattern in patterns:
        ids = {key for key, aliases in names.items() if _matches(aliases, pattern)}
        if not ids:
            raise UserError(
                f"{field}: {pattern!r} matches no parameter of the model{_hint(pattern, names.values())}"
            )
        matched |= ids
    return matched


def values_by_pattern(
    names: Mapping[int, Sequence[str]], patterns: Mapping[str, float], field: str, what: str
) -> dict[int, float]:
    """The value of each parameter, by its id, that a pattern matches; of several patterns the first one counts.

    Args:
        names: all names of every parameter, by its id.
        patterns: a value by pattern.
        field: the recipe's field, for messages.
        what: what `names` are of, for messages.

    Raises:
        UserError: a pattern has no effect.
    """
    values: dict[int, float] = {}
    for pattern, value in patterns.items():
        ids = [key for key, aliases in names.items() if _matches(aliases, pattern)]
        if not ids:
            raise UserError(f"{field}: {pattern!r} matches no {what}{_hint(pattern, names.values())}")
        if all(key in values for key in ids):
            raise UserError(
                f"{field}: {pattern!r} has no effect, earlier patterns take all that it matches: "
                "put it before them"
            )
        for key in ids:
            values.setdefault(key, value)
    return values


def _matches(aliases: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in aliases)


def _hint(pattern: str, names: Iterable[Sequence[str]]) -> str:
    """Parts of names that resemble `pattern`, or else a pointer to where the names are."""
    paths = (name.split(".") for aliases in names for name in aliases)
    parts = {
        ".".join(path[i:j]) for path in paths for i in range(len(path)) for j in range(i + 1, len(path) + 1)
    }
    close = get_close_matches(pattern.strip("*."), sorted(parts))
    if close:
        return f": did you mean {' or '.join(repr(part) for part in close)}?"
    return ": patterns match whole names, so a '*' may be missing at an end"
