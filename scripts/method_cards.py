#!/usr/bin/env python3
"""Print docs/methods.md from the docstrings of the pruning methods: `method_cards.py > docs/methods.md`."""

import inspect
import re
from pathlib import Path
from textwrap import fill

from dsprune.methods.method import CompensatingMethod, RegrowingMethod, find_method
from dsprune.registry import METHODS

WIDTH = 125


def page() -> str:
    """Return the page: `method_cards.md` with the table and the cards."""
    rows = [f"| [`{name}`](#{name}) | {' | '.join(traits(name))} |" for name in METHODS]
    cards = "\n".join(card(name) for name in METHODS)
    frame = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return frame.replace("ROWS", "\n".join(rows)).replace("CARDS\n", cards)


def traits(name: str) -> tuple[str, str, str]:
    """Return the accumulators, needs and properties of a method, for the table."""
    method = find_method(name)
    kept = f"{method.bytes_per_weight()} bytes" if method.accumulators else "nothing"
    kept = f"{kept}; 8 bytes per input" if method.reads_inputs else kept
    masks = "lose and gain weights" if issubclass(method, RegrowingMethod) else "lose weights"
    masks += "; the kept weights change" if issubclass(method, CompensatingMethod) else ""
    return kept, ", ".join(f"`{need}`" for need in method.needs) or "nothing", masks


def card(name: str) -> str:
    """Return the section of a method: the paragraphs of its docstring, and its facts as a list."""
    text = inspect.getdoc(find_method(name)) or ""
    *paragraphs, facts = re.split(r"\n\n", text)
    lines = [fill(" ".join(paragraph.split()), WIDTH, break_on_hyphens=False) for paragraph in paragraphs]
    pairs = re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", facts, flags=re.MULTILINE | re.DOTALL)
    items = [
        fill(f"- {key}: {' '.join(value.split())}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for key, value in pairs
    ]
    return f"## {name}\n\n" + "\n\n".join(lines) + "\n\n" + "\n".join(items) + "\n"


if __name__ == "__main__":
    print(page(), end="")
