"""Many runs in one picture: the metric against sparsity, what each change costs, the temperature."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dsprune.report.blocks import Key, Picture
from dsprune.report.drawing import INK, QUIET, SERIES, colour_of, new_figure, svg_of, tidy
from dsprune.report.origin import origin_of
from dsprune.report.runs import Run
from dsprune.report.settings import Setting
from dsprune.schedule.law import log_compression

__all__ = ["REFERENCE", "against_reference", "against_sparsity", "against_temperature"]

REFERENCE = "reference"
"""Tag of the runs that others of the same sparsity are compared with."""


CALIBRATED = "calibrated"
"""Tag of the runs at the temperature that `dsprune calibrate` recommends."""


TICKS = (0, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)


def against_sparsity(
    settings: Sequence[Setting], convention: str, metric: str, numbers: Mapping[str, int]
) -> Picture:
    """Mean and spread over seeds, a line a series; on the axis, each step of equal width is equal work.

    Args:
        settings: dense ones become horizontal lines.
        convention: `prunable` or `model`, of the sparsity on the axis.
        metric: name of the headline metric.
        numbers: each series' number, for its colour.
    """
    figure = new_figure(8, 3.6)
    axes = figure.subplots()
    tidy(axes)
    keys: list[Key] = []
    for setting in settings:
        if not setting.target and setting.mean is not None:
            _draw_dense(axes, setting.mean, setting.spread or 0.0)
            keys.append(Key("ink", f"{setting.series} ({setting.mean:.3f})"))
    for name in dict.fromkeys(s.series for s in settings if s.target and s.mean is not None):
        members = [s for s in settings if s.series == name and s.target]
        _draw_series(axes, members, convention, numbers[name])
        keys.append(Key(f"series-{numbers[name] % len(SERIES)}", name))
    reached = [s.sparsity(convention) for s in settings if s.target]
    _sparsity_axis(axes, reached, convention)
    axes.set_ylabel(metric, color=QUIET, fontsize=8.5)
    caption = "Dots are seeds, lines their mean, bars one standard deviation to either side."
    return Picture(
        svg_of(figure, f"{metric} against sparsity"),
        caption,
        tuple(keys),
        _origin(settings),
        f"{metric} against sparsity".capitalize(),
    )


def _draw_dense(axes: Axes, mean: float, spread: float) -> None:
    axes.axhline(mean, color=INK, lw=0.9, ls=(0, (4, 3)))
    axes.axhspan(mean - spread, mean + spread, color=INK, alpha=0.07, lw=0)


def _draw_series(axes: Axes, settings: Sequence[Setting], convention: str, number: int) -> None:
    style = colour_of(number)
    for setting in settings:
        place = log_compression(setting.sparsity(convention))
        dots = [place] * len(setting.scores)
        axes.plot(dots, setting.scores, ".", color=style["color"], ms=4, alpha=0.45)
    known = sorted(
        (log_compression(s.sparsity(convention)), s.mean, s.spread or 0.0)
        for s in settings
        if s.mean is not None
    )
    x, mean, spread = zip(*known, strict=True)
    axes.errorbar(x, mean, yerr=spread, lw=1.7, elinewidth=1, capsize=2.5, marker="o", ms=4, **style)


def _sparsity_axis(axes: Axes, reached: Sequence[float], convention: str) -> None:
    lowest, highest = log_compression(min(reached)), log_compression(max(reached))
    room = 0.06 * (highest - lowest) or 0.1
    axes.set_xlim(lowest - room, highest + room)
    shown = [tick for tick in TICKS if lowest - room <= log_compression(tick) <= highest + room]
    ticks = shown if len(shown) > 1 else sorted({round(s, 4) for s in reached})
    axes.set_xticks([log_compression(tick) for tick in ticks], [f"{100 * tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    what = "the prunable weights" if convention == "prunable" else "all weights of the model"
    axes.set_xlabel(f"sparsity of {what}, % (equal distances are equal work)", color=QUIET, fontsize=8.5)


def against_reference(settings: Sequence[Setting], metric: str) -> Picture:
    """How far each setting is from the reference, in points; of settings at one sparsity."""
    known = [setting for setting in settings if setting.mean is not None]
    reference = reference_of(known)
    base = reference.mean or 0.0
    others = sorted(known, key=lambda setting: setting.mean or 0.0)
    figure = new_figure(8, 0.6 + 0.3 * len(others))
    axes = figure.subplots()
    tidy(axes, grid="x")
    for place, setting in enumerate(others):
        mean = setting.mean or 0.0
        delta = 100 * (mean - base)
        colour = QUIET if setting is reference else SERIES[2] if delta >= 0 else SERIES[1]
        axes.barh(place, delta, height=0.62, color=colour, lw=0)
        if setting.spread:
            bar = 100 * setting.spread
            axes.errorbar(delta, place, xerr=bar, color=INK, elinewidth=0.9, capsize=2.5)
        dots = [100 * (score - base) for score in setting.scores]
        axes.plot(dots, [place] * len(dots), ".", color=INK, ms=3.5, alpha=0.6)
    labels = [f"{setting.series}  {setting.mean:.3f}" for setting in others]
    axes.set_yticks(range(len(others)), labels, color=INK, fontsize=8.5)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel(f"{metric}, points from {reference.series}", color=QUIET, fontsize=8.5)
    caption = (
        f"Difference from {reference.series}. Dots are seeds, bars their mean, whiskers one "
        f"standard deviation."
    )
    return Picture(
        svg_of(figure, f"difference at {reference.target:g}"),
        caption,
        (),
        _origin(known),
        f"At {_name(reference)}",
    )


def reference_of(settings: Sequence[Setting]) -> Setting:
    """The setting with the tag `reference`, or else the best."""
    tagged = [setting for setting in settings if REFERENCE in setting.tags]
    return tagged[0] if tagged else max(settings, key=lambda setting: setting.mean or 0.0)


def against_temperature(settings: Sequence[Setting], metric: str) -> Picture:
    """The metric over the distillation temperature, of settings that differ in it alone."""
    figure = new_figure(8, 3)
    axes = figure.subplots()
    tidy(axes)
    known = _by_temperature(settings)
    x, means = list(known), [setting.mean or 0.0 for setting in known.values()]
    spread = [setting.spread or 0.0 for setting in known.values()]
    style = colour_of(0)
    axes.errorbar(x, means, yerr=spread, lw=1.7, elinewidth=1, capsize=2.5, marker="o", ms=4, **style)
    for (temperature, setting), mean in zip(known.items(), means, strict=True):
        dots = setting.scores
        axes.plot([temperature] * len(dots), dots, ".", color=style["color"], ms=4, alpha=0.45)
        if CALIBRATED in setting.tags:
            axes.axvline(temperature, color=SERIES[1], lw=1, ls=(0, (4, 3)), zorder=0)
            axes.annotate(" calibrated", (temperature, mean), color=SERIES[1], fontsize=8.5, va="bottom")
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{temperature:g}" for temperature in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("temperature", color=QUIET, fontsize=8.5)
    axes.set_ylabel(metric, color=QUIET, fontsize=8.5)
    caption = "Dots are seeds, the line their mean, bars one standard deviation to either side."
    return Picture(
        svg_of(figure, f"{metric} over the temperature"),
        caption,
        (),
        _origin(settings),
        f"Temperature at {_name(settings[0])}",
    )


def _by_temperature(settings: Sequence[Setting]) -> dict[float, Setting]:
    """All runs at a temperature together, whatever series they are of."""
    runs: dict[float, list[Run]] = {}
    for setting in settings:
        runs.setdefault(temperature_of(setting) or 0.0, []).extend(setting.runs)
    return {temperature: Setting("", tuple(runs[temperature])) for temperature in sorted(runs)}


def temperature_of(setting: Setting) -> float | None:
    """The temperature of a setting that is distilled at one."""
    distillation = setting.runs[0].recipe.distillation
    if distillation is None or not distillation.temperature.is_constant:
        return None
    return distillation.temperature.first


def _name(setting: Setting) -> str:
    return f"a target of {100 * setting.target:g} %"


def _origin(settings: Sequence[Setting]) -> str:
    return origin_of([run for setting in settings for run in setting.runs])
