"""Draw plans: sparsity and learning rate over the steps."""

from collections.abc import Mapping
from pathlib import Path

from dsprune.commands.plan.make import Plan
from dsprune.report.drawing import (
    SERIES,
    draw_rate,
    draw_sparsity,
    line_style,
    new_panels,
    save_figure,
    shade_phases,
)

__all__ = ["draw_plans"]


def draw_plans(plans: Mapping[str, Plan], title: str, path: Path) -> None:
    """Draw a plan with its phases, or several plans in one figure, to a PNG or SVG file.

    Raises:
        UserError: the file has an unknown ending, or its folder does not exist.
    """
    in_epochs = all(plan.num_examples is not None for plan in plans.values())
    has_peak = all(plan.recipe.learning_rate.peak for plan in plans.values())
    labels = (
        "sparsity of the\nprunable weights, %",
        "learning rate" if has_peak else "learning rate\n/ peak",
    )
    figure, panels = new_panels(labels, "epoch" if in_epochs else "step", height=4.5, title=title)
    for number, (label, plan) in enumerate(plans.items()):
        unit = plan.timetable.steps_per_epoch if in_epochs else 1
        if len(plans) == 1:
            shade_phases(panels, plan.timetable, unit=unit)
        styles = [line_style(number)] * 2 if len(plans) > 1 else [{"color": SERIES[1]}, {"color": SERIES[0]}]
        draw_sparsity(panels[0], plan.timetable, unit=unit, lw=1.8, label=label, **styles[0])
        peak = plan.recipe.learning_rate.peak if has_peak else None
        draw_rate(panels[1], plan.timetable, peak or 1.0, unit=unit, lw=1.8, **styles[1])
    if len(plans) > 1:
        panels[0].legend(fontsize=8.5, frameon=False, loc="lower right")
        panels[0].set_xlim(left=0)
    panels[0].set_ylim(0, 100)
    panels[1].set_ylim(bottom=0)
    save_figure(figure, path)
