"""A length of time as people and Slurm write it: `90s`, `30m`, `1h30m`, `2:30:00`, `1-12:00:00`."""

import re

from dsprune.errors import UserError

__all__ = ["parse_duration"]

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WITH_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_WITH_COLONS = re.compile(r"(?:(\d+)-)?(\d+):(\d{2}):(\d{2})")


def parse_duration(name: str, text: str) -> float:
    """Seconds of a length of time that was given for `name`; a bare number is seconds.

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
