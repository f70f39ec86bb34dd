"""The file to convert: its sections, with the line of each setting and whether it was read.

Settings that have not been read at the end are unknown to the conversion, and are named in a remark.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dsprune.errors import UserError
from dsprune.utils.text import short

__all__ = ["Entry", "read_source"]

MOST_VALUES = 100_000
"""Largest number of values in a file; aliases count each time."""

DEEPEST = 50
"""Largest number of levels of nesting."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("null", "~", "")),
}
_FRONT_MATTER = re.compile(r"^(?:---|\+\+\+)[ \t]*$(.*?)^(?:---|\+\+\+)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """A key, its value and its line, counted from 1. The key of a nested setting has its sections before it."""

    key: str
    value: Any
    line: int


@dataclass
class Entry:
    """A section or a modifier of a file.

    Attributes:
        file: the file, for messages.
        name: its name, such as `GMPruningModifier`.
        line: its first line.
        settings: its settings by key; a value may be an entry.
    """

    file: str
    name: str
    line: int
    settings: dict[str, Setting] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a setting, and mark it as read; a nested section becomes a plain mapping."""
        self._read.add(key)
        setting = self.settings.get(key)
        value = default if setting is None else setting.value
        return value.plain() if isinstance(value, Entry) else value

    def number(self, key: str, default: float) -> float:
        """Return a setting that is a number; null counts as none.

        Raises:
            UserError: it has another type.
        """
        value = self.get(key)
        return default if value is None else self._checked(key, value, int | float, "a number")

    def texts(self, key: str) -> list[str]:
        """Return a setting that is a text or a list of texts; null counts as none.

        Raises:
            UserError: it has another type.
        """
        return self._listed(key, str, "a text, or a list of texts")

    def numbers(self, key: str) -> list[float]:
        """Return a setting that is a list of numbers; null counts as none.

        Raises:
            UserError: it has another type.
        """
        return self._listed(key, int | float, "a list of numbers")

    def _listed(self, key: str, kind: Any, what: str) -> list[Any]:
        value = self.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [self._checked(key, one, kind, what) for one in values]

    def _checked(self, key: str, value: Any, kind: Any, what: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(
                f"{self.file}: line {self.line_of(key)}: {self.name}: {key} is {short(value)}: it must be {what}"
            )
        return value

    def section(self, key: str) -> "Entry":
        """Return a nested section; empty if there is none."""
        setting = self.settings.get(key)
        if setting is not None and isinstance(setting.value, Entry):
            return setting.value
        return Entry(self.file, key, self.line)

    def sections(self) -> list["Entry"]:
        """Return the nested sections."""
        return [setting.value for setting in self.settings.values() if isinstance(setting.value, Entry)]

    def line_of(self, key: str) -> int:
        """Return the line of a setting, or of the entry if the setting is missing."""
        return self.settings[key].line if key in self.settings else self.line

    def plain(self) -> dict[str, Any]:
        """Return all settings as a plain mapping, and mark them as read."""
        return {key: self.get(key) for key in self.settings}

    def unread(self, above: str = "") -> Iterator[Setting]:
        """Yield the settings that have not been read, with their dotted keys."""
        for key, setting in self.settings.items():
            if key in self._read:
                continue
            if isinstance(setting.value, Entry):
                yield from setting.value.unread(f"{above}{key}.")
            else:
                yield Setting(above + key, setting.value, setting.line)


def read_source(text: str, name: str, value_of: Callable[[str, int], Any] | None = None) -> Entry:
    """Read YAML or JSON with the lines of its values; from a Markdown file, the YAML between `---` at its start.

    An entry with a tag has the tag as its name.

    Args:
        text: content of the file.
        name: its name, for messages.
        value_of: returns the value of a text at a line; None = texts are not changed.

    Raises:
        UserError: it is not a YAML mapping, or a value cannot be read.
    """
    try:
        documents = [*yaml.compose_all(_front_matter(text, name), yaml.SafeLoader)]
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: nested too deeply: use fewer levels") from None
    # The last --- of SparseML's files begins a document without content.
    nodes = [node for node in documents if not (isinstance(node, yaml.ScalarNode) and not node.value)]
    if len(nodes) > 1:
        raise UserError(
            f"{name}: line {_line(nodes[1])}: a second document after ---: give one recipe in a file"
        )
    node = nodes[0] if nodes else None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}: holds no mapping of keys to values: give a recipe or a ds_config")
    return _Builder(name, value_of or (lambda text, line: text)).entry(node, name, 0)


def _front_matter(text: str, name: str) -> str:
    """Return the YAML of a file, with empty lines before it to keep its line numbers."""
    text = text.removeprefix("\ufeff").expandtabs()  # JSON may be indented by tabs, YAML may not
    if not name.lower().endswith(".md"):
        return text
    found = _FRONT_MATTER.search(text)
    if found is None:
        raise UserError(f"{name}: has no YAML between two lines of ---: give the recipe itself")
    return "\n" * text[: found.start(1)].count("\n") + found[1]


@dataclass
class _Builder:
    """Builds entries from YAML nodes."""

    name: str
    value_of: Callable[[str, int], Any]
    num_values: int = 0

    def entry(self, node: yaml.MappingNode, name: str, depth: int) -> Entry:
        entry = Entry(self.name, name, _line(node))
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self.name}: line {_line(key)}: a key that is not text: write key: value")
            if key.value in entry.settings:
                raise UserError(
                    f"{self.name}: line {_line(key)}: the key {key.value!r} appears twice: leave one out"
                )
            entry.settings[key.value] = Setting(
                key.value, self.value(value, key.value, depth + 1), _line(key)
            )
        return entry

    def value(self, node: yaml.Node, key: str, depth: int) -> Any:
        self.num_values += 1
        if depth > DEEPEST or self.num_values > MOST_VALUES:
            raise UserError(f"{self.name}: line {_line(node)}: too many values or levels: use fewer levels")
        if isinstance(node, yaml.MappingNode):
            return self.entry(node, node.tag[1:] if node.tag.startswith("!") else key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(part, key, depth + 1) for part in node.value]
        if node.tag.startswith("!"):  # a modifier without settings
            return Entry(self.name, node.tag[1:], _line(node))
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        text = node.value
        if getattr(node, "style", None) in ("'", '"'):
            return self.value_of(text, _line(node))
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if _NUMBER.fullmatch(text) and len(text) < 100:
            return int(text) if text.lstrip("+-").isdecimal() else float(text)
        return self.value_of(text, _line(node))


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
