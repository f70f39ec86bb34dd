"""Drawings of matplotlib as parts of a page: in its type, and in colours that follow light and dark."""

import io
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsprune.errors import UserError
from dsprune.utils.files import replace_file

__all__ = [
    "INK",
    "PHASES",
    "QUIET",
    "SERIES",
    "check_figure_path",
    "colour_of",
    "new_figure",
    "save_figure",
    "svg_of",
    "tidy",
]

# Stand-ins, that are the page's own colours once it is drawn: see page.css.
INK, QUIET, RULE = "#010101", "#010102", "#010103"


PHASES = {"dense": "#010104", "prune": "#010105", "recover": "#010106"}


SERIES = tuple(f"#0102{number:02x}" for number in range(8))


VARIABLES = {
    INK: "ink",
    QUIET: "quiet_libraries",
    RULE: "rule",
    **{colour: f"phase-{name}" for name, colour in PHASES.items()},
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
}


DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def colour_of(number: int) -> dict[str, Any]:
    """How the line of a series is told from the others; after eight the dashes change."""
    return {"color": SERIES[number % len(SERIES)], "ls": DASHES[number // len(SERIES) % len(DASHES)]}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; inches on a page whose text is as wide as 8 of them."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """Leave of the frame what is read."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=QUIET, labelsize=8.5, length=0)
    axes.grid(visible=True, axis=grid, color=RULE, lw=0.6, zorder=0)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def svg_of(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        figure: drawn in the colours above.
        label: what it shows, for those who do not see it; no two figures of a page have the same.
    """
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style .*?</style>|<g id=\"[^\"]*\"/>", "", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"#010[12]0[0-9a-f]", lambda match: _variable(match[0]), svg)
    opening = f'<svg role="img" aria-label="{label}" '
    return opening + re.sub(r' (width|height)="[\d.]+pt"', "", svg.removeprefix("<svg "), count=2)


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour


FORMATS = ("png", "svg")


def check_figure_path(path: Path) -> None:
    """Refuse what cannot be written, before time is spent on what it is to show.

    Raises:
        UserError: the file has an ending of another format, or its folder does not exist.
    """
    if path.suffix[1:] not in FORMATS:
        raise UserError(f"--plot: value {path}: must end in {' or '.join('.' + kind for kind in FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"--plot: value {path}: make the folder {path.parent} first")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its ending names, whole or not at all; the same one is the same bytes."""
    check_figure_path(path)
    undated = {"Date": None} if path.suffix == ".svg" else None

    def write(temporary: Path) -> None:
        with matplotlib.rc_context({"svg.hashsalt": "dsprune"}):
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=undated)

    replace_file(path, write)
