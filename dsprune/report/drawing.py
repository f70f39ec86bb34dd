"""Figures in one style: panels, timetables, and saving as an SVG element or a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from markupsafe import Markup

from dsprune.errors import UserError
from dsprune.schedule import Timetable
from dsprune.schedule.timetable import Phase
from dsprune.utils.files import replace_file

if TYPE_CHECKING:  # imported when drawing, because most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CSS", "INK", "LABEL", "PHASES", "QUIET", "RULE", "SERIES", "check_figure_path", "draw_rate", "draw_sparsity",
    "line_style", "new_panels", "plot", "save_figure", "shade_phases", "svg_of", "with_variables",
]  # fmt: skip

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
    """Replace the light colours in a text by the page's variables, to support the light and the dark scheme."""
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", text)


LABEL: dict[str, Any] = {"color": QUIET, "fontsize": 8.5, "parse_math": False}
"""Style of a text on a figure; dollar signs do not make a formula."""


def new_panels(
    labels: Sequence[str],
    shared: str = "",
    *,
    height: float,
    columns: int = 1,
    rows: Sequence[str] = (),
    title: str = "",
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels.

    Args:
        labels: the quantity of each panel, row by row.
        shared: label of the axis that the panels share.
        height: height of the figure in inches; its width is that of the page's text, 8 inches.
        columns: number of panels side by side.
        rows: names of the places 0, 1, ... on the vertical axis, which the panels then share.
        title: heading of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, height), layout="constrained")
    sideways = bool(rows)
    grid = figure.subplots(
        len(labels) // columns, columns, sharex=not sideways, sharey=sideways, squeeze=False
    )
    panels = list(grid.flat)
    for axes, label in zip(panels, labels, strict=True):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(RULE)
        axes.tick_params(colors=QUIET, labelsize=8.5, length=0)
        axes.grid(visible=True, axis="x" if sideways else "y", color=RULE, lw=0.6, zorder=0)
        axes.set_axisbelow(True)
        (axes.set_xlabel if sideways else axes.set_ylabel)(label, **LABEL)
    if shared.endswith("step"):
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[:, 0] if sideways else grid[-1]:
        (axes.set_ylabel if sideways else axes.set_xlabel)(shared, **LABEL)
    if rows:
        panels[0].set_yticks(range(len(rows)), rows, **(LABEL | {"color": INK}))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold", color=INK, parse_math=False)
    return figure, panels


def plot(axes: Axes, steps: Sequence[float], values: Sequence[float], **style: Any) -> None:
    """Draw a curve; a single point is a dot, also on the edge of the panel."""
    single: dict[str, Any] = {"marker": "o", "ms": 4, "clip_on": False} if len(steps) == 1 else {}
    axes.plot(steps, values, **(style | single))


def shade_phases(panels: Sequence[Axes], timetable: Timetable, *, unit: int = 1) -> None:
    """Shade the phases of a run, and name them above the first panel; `unit`: steps per unit of the axis."""
    for phase, start, end in timetable.phases():
        for axes in panels:
            axes.axvspan(start / unit, end / unit, color=PHASES[phase], lw=0, zorder=-1)
        if end - start > 0.06 * timetable.total_steps:  # room for the name
            place = ((start + end) / 2 / unit, 1.02)
            style: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
            panels[0].annotate(phase, place, **style, **LABEL)
    panels[0].set_xlim(0, timetable.total_steps / unit)


def draw_sparsity(axes: Axes, timetable: Timetable, *, unit: int = 1, **line: Any) -> None:
    """Draw the planned sparsity in per cent as stairs; `unit` as for `shade_phases`."""
    edges = [0, *(update.step for update in timetable.updates), timetable.total_steps]
    heights = [0.0, *(100 * update.sparsity for update in timetable.updates)]
    axes.stairs(heights, [edge / unit for edge in edges], baseline=None, **line)


def draw_rate(
    axes: Axes, timetable: Timetable, peak: float, *, unit: int = 1, until: int | None = None, **line: Any
) -> None:
    """Draw the planned learning rate up to step `until`; `unit` as for `shade_phases`."""
    from dsprune.report.powers import PowersOfTen  # imports matplotlib

    steps = [step for step in timetable.lr_corners() if until is None or step <= until]
    rates = [peak * timetable.lr_multiplier(step) for step in steps]
    axes.plot([step / unit for step in steps], rates, **line)
    axes.yaxis.set_major_formatter(PowersOfTen())
    axes.yaxis.get_offset_text().set(color=QUIET, fontsize=8)


_DROPPED = re.compile(
    r'<metadata>.*?</metadata>|<style .*?</style>|<g id="[^"]*"/>|(?<=<g) id="[^"]*"|font-family: [^;]*; '
    r'|(?:width|height)="[\d.]+pt" ',
    flags=re.DOTALL,
)


def svg_of(figure: Figure, label: str) -> Markup:
    """Return the figure as an `<svg>` element in the page's colours and type; the label is for screen readers."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    for background in (figure.patch, *(axes.patch for axes in figure.axes)):
        background.set_visible(False)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        # `savefig` would draw twice, the first time for sizes that only other formats need.
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    svg = text.getvalue().partition("<svg ")[2]
    drawn = Markup(with_variables(_DROPPED.sub("", svg)))  # matplotlib escapes its texts
    return Markup('<svg role="img" aria-label="{}" {}').format(label, drawn)


FORMATS = ("png", "svg")


def check_figure_path(path: Path) -> None:
    """Check that a figure can be saved to a path, before it is drawn.

    Raises:
        UserError: the file has an unknown ending, or its folder does not exist.
    """
    if path.suffix[1:] not in FORMATS:
        raise UserError(f"--plot: value {path}: must end in {' or '.join('.' + kind for kind in FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"--plot: value {path}: make the folder {path.parent} first")


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure in the format of the path's ending; equal figures have equal bytes.

    The file is complete or absent; errors as `check_figure_path`.
    """
    from matplotlib import rc_context

    check_figure_path(path)
    undated = {"Date": None} if path.suffix == ".svg" else None

    def write(temporary: Path) -> None:
        with rc_context({"svg.hashsalt": "dsprune"}):
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=undated)

    replace_file(path, write)
