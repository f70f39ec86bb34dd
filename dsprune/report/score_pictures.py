"""The headline metric of many runs: against sparsity, against a reference, against the temperature."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dsprune.recipe.timing import log_compression
from dsprune.report.drawing import INK, LABEL, SERIES, line_style, new_panels, svg_of
from dsprune.report.grouping import Setting, reference_of
from dsprune.report.page import Picture
from dsprune.report.runs import origin_of

__all__ = ["against_reference", "against_sparsity", "against_temperature"]

CALIBRATED = "calibrated"
"""Tag of the runs at the temperature that `dsprune calibrate` recommends."""

CONVENTIONS = {"prunable": "the prunable weights", "model": "all weights of the model"}
SEEDS = "Dots are seeds, lines their mean, bars one standard deviation to either side."
TICKS = (0, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)


def against_sparsity(
    settings: Sequence[Setting], convention: str, metric: str, styles: Mapping[str, dict[str, Any]]
) -> Picture:
    """Draw mean and spread over seeds, with a line per series; the axis is linear in log compression.

    Args:
        settings: settings with a score; dense ones become horizontal lines.
        convention: `prunable` or `model`, of the sparsity on the axis.
        metric: name of the headline metric.
        styles: style of the line of each series.
    """
    label = f"sparsity of {CONVENTIONS[convention]}, % (equal distances are equal log compression)"
    figure, (axes,) = new_panels([metric], label, height=3.6)
    pruned = [setting for setting in settings if setting.target]
    legend = {}
    for setting in (setting for setting in settings if not setting.target):
        spread = setting.spread or 0.0
        axes.axhline(setting.mean, color=INK, lw=0.9, ls=(0, (4, 3)))
        axes.axhspan(setting.mean - spread, setting.mean + spread, color=INK, alpha=0.07, lw=0)
        legend[f"{setting.series} ({setting.mean:.3f})"] = INK
    for name in dict.fromkeys(setting.series for setting in pruned):
        points = [(log_compression(s.sparsity(convention)), s) for s in pruned if s.series == name]
        _draw_means(axes, points, styles[name])
        legend[name] = styles[name]["color"]
    _set_sparsity_ticks(axes, [setting.sparsity(convention) for setting in pruned])
    title = f"{metric} against sparsity"
    return Picture(svg_of(figure, title), SEEDS, _origin(settings), legend, title.capitalize())


def _draw_means(axes: Axes, points: Iterable[tuple[float, Setting]], style: Mapping[str, Any]) -> None:
    """Draw the scores of settings as dots, and their means as a line with bars."""
    places, settings = zip(*sorted(points, key=lambda point: point[0]), strict=True)
    for place, setting in zip(places, settings, strict=True):
        axes.plot([place] * len(setting.scores), setting.scores, ".", color=style["color"], ms=4, alpha=0.45)
    means, spreads = zip(*((setting.mean, setting.spread or 0.0) for setting in settings), strict=True)
    axes.errorbar(places, means, spreads, lw=1.7, elinewidth=1, capsize=2.5, marker="o", ms=4, **style)


def _set_sparsity_ticks(axes: Axes, reached: Sequence[float]) -> None:
    lowest, highest = log_compression(min(reached)), log_compression(max(reached))
    margin = 0.06 * (highest - lowest) or 0.1
    axes.set_xlim(lowest - margin, highest + margin)
    shown = [tick for tick in TICKS if lowest - margin <= log_compression(tick) <= highest + margin]
    ticks = shown if len(shown) > 1 else sorted({round(sparsity, 4) for sparsity in reached})
    axes.set_xticks([log_compression(tick) for tick in ticks], [f"{100 * tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def against_reference(settings: Sequence[Setting], metric: str) -> Picture:
    """Draw the distance of each setting from the reference, in points; all have a score and the same target."""
    reference = reference_of(settings)
    ordered = sorted(settings, key=lambda setting: setting.rank)
    label = f"{metric}, points from {reference.series}"
    names = [f"{setting.series}  {setting.mean:.3f}" for setting in ordered]
    figure, (axes,) = new_panels([label], height=0.6 + 0.3 * len(ordered), rows=names)
    for place, setting in enumerate(ordered):
        delta = 100 * (setting.mean - reference.mean)
        axes.barh(place, delta, height=0.62, color=SERIES[2] if delta >= 0 else SERIES[1], lw=0)
        if setting.spread:
            axes.errorbar(delta, place, xerr=100 * setting.spread, color=INK, elinewidth=0.9, capsize=2.5)
        dots = [100 * (score - reference.mean) for score in setting.scores]
        axes.plot(dots, [place] * len(dots), ".", color=INK, ms=3.5, alpha=0.6)
    axes.axvline(0, color=INK, lw=0.8)
    caption = f"Difference from {reference.series}. Dots are seeds, bars their mean, whiskers one standard deviation."
    svg = svg_of(figure, f"difference in {metric} at {reference.target:g}")
    return Picture(svg, caption, _origin(settings), title=f"At {_target(reference)}")


def against_temperature(settings: Mapping[float, Setting], metric: str) -> Picture:
    """Draw the metric over the distillation temperature."""
    figure, (axes,) = new_panels([metric], "temperature", height=3)
    _draw_means(axes, settings.items(), line_style(0))
    for temperature, setting in settings.items():
        if CALIBRATED in setting.tags:
            axes.axvline(temperature, color=SERIES[1], lw=1, ls=(0, (4, 3)), zorder=0)
            style = LABEL | {"color": SERIES[1]}
            axes.annotate(" calibrated", (temperature, setting.mean), va="bottom", **style)
    axes.set_xscale("log")
    axes.set_xticks(list(settings), [f"{temperature:g}" for temperature in settings])
    axes.xaxis.set_minor_locator(NullLocator())
    members = list(settings.values())
    svg = svg_of(figure, f"{metric} over the temperature at {members[0].target:g}")
    return Picture(svg, SEEDS, _origin(members), title=f"Temperature at {_target(members[0])}")


def _target(setting: Setting) -> str:
    return f"a target of {100 * setting.target:g} %"


def _origin(settings: Sequence[Setting]) -> str:
    return origin_of([run for setting in settings for run in setting.runs])
