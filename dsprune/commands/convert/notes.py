"""Remarks on a conversion: what is missing, what differs, and what is left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dsprune.commands.convert.source import Entry
from dsprune.utils.text import short

__all__ = ["Notes"]


@dataclass
class Notes:
    """Remarks on a conversion.

    Attributes:
        missing: reason by recipe field that the source does not have and that a recipe needs.
        differs: remarks on lines that the recipe says in another way.
        left_out: remarks on lines that the recipe cannot say.
    """

    missing: dict[str, str] = field(default_factory=dict)
    differs: list[tuple[int, str]] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)

    def differ(self, entry: Entry, key: str, reason: str) -> None:
        """Note that the recipe says a setting in another way."""
        self.differs.append((entry.line_of(key), f"{_described(entry, key)}: {reason}"))

    def leave_out(self, entry: Entry, key: str, reason: str) -> None:
        """Note that the recipe cannot say a setting."""
        self.left_out.append((entry.line_of(key), f"{_described(entry, key)}: {reason}"))

    def leave_out_all(self, entry: Entry, reason: str) -> None:
        """Note that the recipe can say nothing of an entry."""
        entry.plain()
        self.left_out.append((entry.line, f"{entry.name}: {reason}"))

    def differ_all(self, entry: Entry, reason: str) -> None:
        """Note that the recipe says an entry in another way."""
        self.differs.append((entry.line, f"{entry.name}: {reason}"))

    def leave_out_schedules(self, others: Iterable[Entry], lead: Entry) -> None:
        """Note the modifiers that have another schedule than the one that is converted."""
        for other in others:
            self.leave_out_all(
                other, f"a run has one schedule of pruning, and that of line {lead.line} is taken"
            )

    def leave_out_unread(self, entry: Entry) -> None:
        """Note every setting of an entry that the conversion does not know."""
        for setting in entry.unread():
            text = f"{entry.name}: {setting.key} = {short(setting.value)}: not known to this command"
            self.left_out.append((setting.line, text))

    def lines(self) -> Iterator[str]:
        """Yield all remarks as text, by kind and line."""
        if self.missing:
            yield "Missing: the source does not say it, and the recipe needs it:"
            yield from (f"  {field}: {reason}" for field, reason in self.missing.items())
        for title, remarks in (
            ("Differs: not the same as in the source:", self.differs),
            ("Left out: a recipe cannot say it:", self.left_out),
        ):
            if remarks:
                yield title
                yield from (f"  line {line}, {text}" for line, text in sorted(dict.fromkeys(remarks)))


def _described(entry: Entry, key: str) -> str:
    setting = entry.settings.get(key)
    if setting is None or isinstance(setting.value, Entry):
        return f"{entry.name}: {key if setting is None else setting.key}"
    return f"{entry.name}: {setting.key} = {short(setting.value)}"
