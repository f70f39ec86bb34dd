"""The page's colours, in which figures are drawn too."""

import re
from importlib.resources import files
from typing import Any, get_args

from dsprune.schedule.timetable import Phase

__all__ = ["CSS", "INK", "PHASES", "QUIET", "RULE", "SERIES", "line_style", "with_variables"]

CSS = (files("dsprune.report") / "page.css").read_text(encoding="utf-8")
"""The page's style sheet. Its variables come first, with the values of the light scheme."""

_LIGHT = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS.partition("@media")[0]))
_VARIABLES = {colour: name for name, colour in reversed(_LIGHT.items())}

INK, QUIET, RULE = _LIGHT["ink"], _LIGHT["quiet"], _LIGHT["rule"]
PHASES: dict[str, str] = {phase: _LIGHT[f"phase-{phase}"] for phase in get_args(Phase)}
SERIES = tuple(_LIGHT[f"series-{number}"] for number in range(8))

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def line_style(number: int) -> dict[str, Any]:
    """Return the colour and the dashes of the line with that number; the dashes change after eight colours."""
    return {"color": SERIES[number % len(SERIES)], "ls": _DASHES[number // len(SERIES) % len(_DASHES)]}


def with_variables(text: str) -> str:
    """Replace the light colours in a text by the page's variables, so that they follow light and dark."""
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", text)
