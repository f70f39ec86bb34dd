"""Text helpers: first lines of errors, similar names, control characters, documentation, durations, keys."""

import difflib
import inspect
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from reprlib import Repr
from typing import Any

from dsprune.errors import UserError

__all__ = [
    "MISSING",
    "control_character",
    "did_you_mean",
    "first_line",
    "flatten",
    "one_line",
    "parse_duration",
    "percent",
    "printable",
    "shareable",
    "short",
    "summary_of",
]

MISSING = "-"
"""Text of a missing value in a table."""

_HALF = 1000
"""Number of characters to keep at the start and at the end of a very long message."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WITH_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_WITH_COLONS = re.compile(r"(?:(\d+)-)?(\d+):(\d{2}):(\d{2})")

_FOLDERS = re.compile(r"(?<![\w/.:…])/(?:[^\s/'\"=,<>\[\]{}]+/)+")
"""The folders of absolute paths, except in an address such as `https://...`."""

# Control characters, lone surrogates, line and paragraph separators, and characters that reverse the text direction.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return a fraction in per cent, or `MISSING` for None.

    Examples:
        >>> percent(0.8961), percent(0.9, 0), percent(None)
        ('89.61 %', '90 %', '-')
    """
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f} %"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES or character in _DIRECTIONS


def control_character(text: str) -> str | None:
    """Return the first character that would break a line or control a terminal; None if there is none."""
    return next(filter(_is_control, text), None)


def printable(text: str) -> str:
    r"""Return the text with its control characters escaped, so that it stays in one line of a terminal.

    Examples:
        >>> print(printable("a\n\x1b[2Jb"))
        a\n\x1b[2Jb
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(character)[1:-1] if _is_control(character) else character for character in text)


def one_line(message: str) -> str:
    """Return a message for a terminal, with escaped control characters, and without the middle of a very long one."""
    text = printable(message)
    return text if len(text) <= 2 * _HALF else f"{text[:_HALF]} ... {text[-_HALF:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or the class name if it is empty.

    If the first line ends in a colon, the second line is included. A `KeyError` has no message but the key.
    """
    if isinstance(error, KeyError):
        return f"has no {error}"
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    line = f"{first} {others[0].strip()}" if others and first.endswith(":") else first
    return line.rstrip(".")


def shareable(text: str) -> str:
    """Cut the absolute paths in a text to their last part, so that it can be shared.

    Examples:
        >>> shareable("dsprune train /home/me/mine.yaml task.train=data/a.csv")
        'dsprune train …/mine.yaml task.train=data/a.csv'
    """
    return _FOLDERS.sub("…/", text)


def summary_of(thing: Any) -> str:
    """Return the first line of the documentation of a class, a function or an instance, without its full stop."""
    return (inspect.getdoc(getattr(thing, "func", thing)) or "").partition("\n")[0].removesuffix(".")


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def short(value: Any) -> str:
    """Return the value as code, abbreviated if it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print an integer of many thousand digits
        return "a number of thousands of digits"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'X'? ` for the most similar known name, or an empty string if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def parse_duration(name: str, text: str) -> float:
    """Return the seconds of a duration: `90s`, `30m`, `1h30m`, Slurm's `2:30:00` or `1-12:00:00`, or a bare number.

    Raises:
        UserError: the text has none of these forms; `name` is the option or the variable that holds it.

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
    """Yield the dotted key and value of each leaf of nested mappings; an empty mapping yields nothing.

    Examples:
        >>> dict(flatten({"a": {"b": 1}, "c": 2}))
        {'a.b': 1, 'c': 2}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{above}{key}.")
        else:
            yield above + key, value
