"""Regular expressions over parameter names, as the glob patterns of a recipe."""

import re
from collections.abc import Iterator

__all__ = ["globs_of", "is_exact"]

_PIECE = re.compile(
    r"(?P<any>\.\*\??)|(?P<some>\.\+\??)|(?P<digits>(?:\\d|\[0-9\])\+)|(?P<digit>\\d|\[0-9\])|(?P<word>\\w\+)|(?P<dot>\\?\.)|(?P<set>\[[^\]^\\]+\])"
    r"|(?P<text>[\w-]+?(?![?*+{]))"
)


def globs_of(pattern: str) -> list[str]:
    """Return globs for a regular expression that matches from the start of a name.

    A dot stands for itself, since names have dots wherever patterns write one.

    Raises:
        ValueError: it has a part that no glob has.

    Examples:
        >>> globs_of("bert.encoder.layer.*.(query|key).weight")
        ['bert.encoder.layer*.query.weight', 'bert.encoder.layer*.key.weight']
    """
    return [_glob(branch) for branch in _branches(pattern.removeprefix("^").removesuffix("$"))]


def is_exact(pattern: str) -> bool:
    """Return whether its globs match nothing else: that a name has digits or no dot in some place is no glob."""
    return re.search(r"\\w|(\\d|\[0-9\])\+", pattern) is None


def _branches(pattern: str) -> Iterator[str]:
    """Yield a pattern once for each choice of its groups."""
    group = re.search(r"\((?:\?:)?([^()]*)\)(?![?*+{])", pattern)
    if group is None:
        yield from pattern.split("|")
        return
    for choice in group[1].split("|"):
        yield from _branches(pattern[: group.start()] + choice + pattern[group.end() :])


def _glob(pattern: str) -> str:
    glob, place = "", 0
    while place < len(pattern):
        piece = _PIECE.match(pattern, place)
        if piece is None:
            raise ValueError(f"{pattern[place:]!r} has no counterpart in a glob")
        kind = str(piece.lastgroup)
        glob += {
            "any": "*",
            "some": "?*",
            "digits": "[0-9]*",
            "digit": "[0-9]",
            "word": "?*",
            "dot": ".",
        }.get(kind, piece[0])
        place = piece.end()
    return glob
