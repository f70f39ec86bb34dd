"""Short texts: durations, the first line of an error, names that are near, dotted keys."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dsprune.errors import UserError

__all__ = ["did_you_mean", "first_line", "flatten", "parse_duration"]

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WITH_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_WITH_COLONS = re.compile(r"(?:(\d+)-)?(\d+):(\d{2}):(\d{2})")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none; without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'X'? ` for the nearest known name, or an empty text where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def parse_duration(name: str, text: str) -> float:
    """Return the seconds of a duration as people and Slurm write it; a bare number is seconds.

    Args:
        name: the option or variable that holds it, for the message.
        text: `90s`, `30m`, `1h30m`, `2:30:00` or `1-12:00:00`.

    Raises:
        UserError: it cannot be read.

    Examples:
        >>> parse_duration("--stop-after", "1h30m"), parse_duration("--stop-after", "1-00:00:10")
        (5400.0, 86410.0)
    """
    if text.isdecimal():
        return float(text)
    match = _WITH_UNITS.fullmatch(text) or _WITH_COLONS.fullmatch(text)
    if not text or match is None:
        raise UserError(f"{name}: value {text!r}: write 90s, 30m, 1h30m, 2d or H:MM:SS")
    return sum(
        float(number or 0) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True)
    )


def flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by dotted keys; an empty mapping yields nothing.

    Examples:
        >>> dict(flatten({"a": {"b": 1}, "c": 2}))
        {'a.b': 1, 'c': 2}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{above}{key}.")
        else:
            yield above + key, value
