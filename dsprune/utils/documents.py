"""Read YAML and JSON so that each text has one meaning, and write YAML that reads back equal.

YAML readers disagree on texts such as `010` (8 or 10), `1:30` (90 or text), `yes` (true or text) and `1e-4` (a number
or text). Here, numbers are decimal, with or without an exponent, and dates are text. Texts on which readers disagree
are refused, and so are tags, repeated keys, and very deep nesting.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dsprune.errors import UserError

__all__ = ["read_document", "read_json", "read_yaml", "without_duplicates", "write_yaml"]

DEEPEST = 50
"""Largest number of levels of nesting."""

MOST_BYTES = 2**24
"""Largest size of a file in bytes."""

_TAG = "tag:yaml.org,2002:"
_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_AMBIGUOUS = re.compile(
    r"[-+]?(?:0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO]?[\d_]+(?:\.\d*)?(?:[eE][-+]?\d+)?)"  # other bases, or leading zeros
    r"|[-+]?\d[\d_]*(?::[0-5]?\d)+(?:\.\d*)?"  # to the base of 60
    r"|[-+]?(?=[\d_.]*_)\d[\d_]*(?:\.[\d_]*)?(?:[eE][-+]?\d+)?"  # with underscores
    r"|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
)
_MOST_DIGITS = 400
_EXACT = 2**53


def read_document(path: Path) -> bytes:
    """Return the content of a recipe, a suite or a ds_config.

    Raises:
        UserError: the file is too large.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UserError(f"{path}: {size:,} bytes, and {MOST_BYTES:,} are read: give another file")
    return path.read_bytes()


def read_yaml(text: str | bytes, where: str) -> Any:
    """Read one YAML document of a file or an option, `where` in messages.

    Raises:
        UserError: it is not YAML, or readers would disagree on its meaning.

    Examples:
        >>> read_yaml("{a: 1e-4, b: 1e0, c: 2024-01-01, d: true}", "example")
        {'a': 0.0001, 'b': 1, 'c': '2024-01-01', 'd': True}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply: use fewer levels") from None


def read_json(text: bytes, where: str, *, finite: bool = True) -> dict[str, Any]:
    """Read one JSON object in UTF-8 of a file, `where` in messages.

    Args:
        text: the content of the file.
        where: the file.
        finite: whether numbers must be finite, as in what users write. transformers writes infinities too.

    Raises:
        UserError: it is not a JSON object, a key appears twice, or a number is not finite.
    """
    number = _finite if finite else float
    try:
        found: Any = json.loads(
            text.decode("utf-8-sig"),
            object_pairs_hook=without_duplicates,
            parse_int=_whole,
            parse_float=number,
            parse_constant=number,
        )
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: line {error.lineno} is not JSON ({error.msg}): correct the file") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not text: give a JSON file") from None
    except RecursionError:
        raise UserError(f"{where}: more than {DEEPEST} levels of nesting: use fewer levels") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds a {type(found).__name__}: give a JSON object")
    if _depth(found) > DEEPEST:
        raise UserError(f"{where}: more than {DEEPEST} levels of nesting: use fewer levels")
    return found


def write_yaml(values: Any) -> str:
    """Return YAML that `read_yaml` reads back equal."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads only YAML on which all readers agree."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []  # the anchors of the nodes that are being built

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build a node that has no tag, is not nested too deeply, and does not contain itself."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            _refuse(f"found the tag {event.tag}: write the value without it", event)
        if len(self._open) == DEEPEST:
            _refuse(f"found more than {DEEPEST} levels of nesting: use fewer levels", event)
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            _refuse(f"found *{event.anchor} inside &{event.anchor}: write the value out", event)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are texts without repetitions."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("found a key that is not text: write key: value", key)
            if key.value in seen:
                _refuse(f"found the key {key.value!r} twice: leave one of them out", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Build a number; one with an exponent is an integer if it is whole."""
        if len(node.value) > _MOST_DIGITS:
            _refuse(f"found a number of {len(node.value)} digits: write a smaller one", node)
        if node.value.lstrip("+-").isdecimal():
            return int(node.value)
        number = float(node.value)
        whole = "e" in node.value.lower() and abs(number) < _EXACT and number.is_integer()
        return int(number) if whole else number

    def construct_ambiguous(self, node: yaml.ScalarNode) -> Any:
        """Refuse a text that readers interpret differently."""
        value = node.value
        way_out = "plain digits" if any(c.isdigit() for c in value) else "true or false"
        _refuse(
            f"found {value!r}, which YAML readers interpret differently: write {way_out}, or quote it", node
        )


class _Dumper(yaml.SafeDumper):
    """Quotes each text that `_Loader` or another reader would interpret differently."""


def _refuse(problem: str, at: Any) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _depth(value: Any) -> int:
    """Return the number of levels of nesting; counting stops after `DEEPEST`."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [item for part in parts for item in part if isinstance(item, dict | list)]
        depth += 1
    return depth


def without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, as an `object_pairs_hook`.

    Raises:
        ValueError: a key appears twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice: leave one of them out")
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits: write a smaller one")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is not finite: write another one")
    return number


_Loader.yaml_implicit_resolvers = {}  # all of its own
_SCALARS = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("merge", re.compile(r"<<")),
    ("float", _NOT_FINITE),
    ("number", _NUMBER),
    ("ambiguous", _AMBIGUOUS),
)
for _kind, _pattern in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern.pattern})$"), None)
_Loader.add_constructor(_TAG + "number", _Loader.construct_number)
_Loader.add_constructor(_TAG + "ambiguous", _Loader.construct_ambiguous)
for _kind, _pattern in _SCALARS[-2:]:
    _Dumper.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern.pattern})$"), None)
