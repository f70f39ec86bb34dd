"""Regular expressions over parameter names, as the glob patterns of a recipe."""

import re
from collections.abc import Iterator

from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.source import Entry

__all__ = ["globs_of", "noted_globs"]

_PIECE = re.compile(
    r"(?P<any>\.\*\??)|(?P<some>\.\+\??)|(?P<digits>(?:\\d|\[0-9\])\+)|(?P<digit>\\d|\[0-9\])|(?P<word>\\w\+)|(?P<dot>\\?\.)|(?P<set>\[[^\]^\\]+\])"
    r"|(?P<text>[\w-]+?(?![?*+{]))"
)


def globs_of(pattern: str) -> list[str]:
    """Return globs for a regular expression that matches from the start of a name.

    A dot matches only a dot: patterns have one where names have one.

    Raises:
        ValueError: a part of it has no equivalent in globs.

    Examples:
        >>> globs_of("bert.encoder.layer.*.(query|key).weight")
        ['bert.encoder.layer*.query.weight', 'bert.encoder.layer*.key.weight']
    """
    return [_glob(branch) for branch in _branches(pattern.removeprefix("^").removesuffix("$"))]


def noted_globs(entry: Entry, key: str, name: str, pattern: str, field: str, notes: Notes) -> list[str]:
    """Return globs for a regular expression; add a remark if they match more, or if there are none.

    Args:
        entry: the entry that has the expression.
        key: its setting there.
        name: the expression as written.
        pattern: the regular expression.
        field: the field of a recipe in which a user can name the weights.
        notes: receives the remarks.
    """
    # A glob cannot match only digits, or no dot.
    if re.search(r"\\w|(\\d|\[0-9\])\+", pattern):
        notes.differ(entry, key, f"{name!r}: a glob matches more: `dsprune plan` shows what is pruned")
    try:
        return globs_of(pattern)
    except ValueError as error:
        notes.leave_out(entry, key, f"{name!r}: {error}: name its weights in {field}")
        return []


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
