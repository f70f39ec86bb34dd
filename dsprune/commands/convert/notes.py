"""Remarks on a conversion: missing fields, differences, and settings that are left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dsprune.commands.convert.source import Entry
from dsprune.utils.text import short

__all__ = ["Notes"]


@dataclass
class Notes:
    """Remarks on a conversion.

    Attributes:
        missing: reason by required recipe field that the source does not have.
        differs: remarks on lines that the recipe expresses differently.
        left_out: remarks on lines that the recipe cannot express.
    """

    missing: dict[str, str] = field(default_factory=dict)
    differs: list[tuple[int, str]] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)

    def differ(self, entry: Entry, key: str, reason: str) -> None:
        """Add a remark on a setting that the recipe expresses differently."""
        self.differs.append((entry.line_of(key), f"{_described(entry, key)}: {reason}"))

    def leave_out(self, entry: Entry, key: str, reason: str) -> None:
        """Add a remark on a setting that the recipe cannot express."""
        self.left_out.append((entry.line_of(key), f"{_described(entry, key)}: {reason}"))

    def leave_out_all(self, entry: Entry, reason: str) -> None:
        """Add a remark on an entry that the recipe cannot express."""
        entry.plain()
        self.left_out.append((entry.line, f"{entry.name}: {reason}"))

    def differ_all(self, entry: Entry, reason: str) -> None:
        """Add a remark on an entry that the recipe expresses differently."""
        self.differs.append((entry.line, f"{entry.name}: {reason}"))

    def leave_out_schedules(self, others: Iterable[Entry], lead: Entry) -> None:
        """Add a remark on the modifiers with another schedule than the converted one."""
        for other in others:
            self.leave_out_all(
                other, f"a run has one schedule of pruning, and that of line {lead.line} is taken"
            )

    def leave_out_unread(self, entry: Entry) -> None:
        """Add a remark on every unknown setting of an entry."""
        for setting in entry.unread():
            text = f"{entry.name}: {setting.key} = {short(setting.value)}: not known to this command"
            self.left_out.append((setting.line, text))

    def lines(self) -> Iterator[str]:
        """Yield all remarks as text, by kind and line."""
        if self.missing:
            yield "Missing: not in the source, but required in a recipe:"
            yield from (f"  {field}: {reason}" for field, reason in self.missing.items())
        for title, remarks in (
            ("Differs from the source:", self.differs),
            ("Left out: a recipe cannot express it:", self.left_out),
        ):
            if remarks:
                yield title
                yield from (f"  line {line}, {text}" for line, text in sorted(dict.fromkeys(remarks)))


def _described(entry: Entry, key: str) -> str:
    setting = entry.settings.get(key)
    if setting is None or isinstance(setting.value, Entry):
        return f"{entry.name}: {key if setting is None else setting.key}"
    return f"{entry.name}: {setting.key} = {short(setting.value)}"
