"""`dsprune calibrate`: choose the distillation temperature from a store of teacher logits."""

from pathlib import Path

from rich.console import Console

from dsprune.commands.calibrate.measure import Labels, enough_records, measure, read_labels
from dsprune.commands.calibrate.recipe_file import check_recipe_file, write_number
from dsprune.commands.calibrate.tables import draw_curves, print_curves
from dsprune.distillation.calibration import recommend
from dsprune.distillation.store import open_store
from dsprune.errors import UserError
from dsprune.recipe import Recipe
from dsprune.report.drawing import check_figure_path, save_figure
from dsprune.utils.console import say

__all__ = ["calibrate"]


def calibrate(
    folder: Path,
    recipe: Recipe | None,
    plot: Path | None,
    write: Path | None,
    max_records: int | None,
    console: Console,
) -> None:
    """Print statistics of a store's teacher at each temperature, and recommend a temperature.

    Args:
        folder: the store.
        recipe: its training data give the labels; None = no labels.
        plot: PNG or SVG file to draw the curves in; None = none.
        write: recipe file to set the temperature in; None = none.
        max_records: number of records to read, a random sample that is the same each time; None =
            `enough_records`.
        console: where to print.

    Raises:
        UserError: the store is damaged or has no output with two classes or more, the recipe is for other samples
            or encodes them differently, or a file cannot be written.
    """
    if plot is not None:
        check_figure_path(plot)
    if write is not None:
        check_recipe_file(write, "distillation", "temperature")
    labels = Labels() if recipe is None else read_labels(recipe)
    store = open_store(folder, labels.origin)
    samples = store.fingerprints[: max_records or enough_records(store)]
    if recipe is not None and not labels.cover_any(samples):
        raise UserError(
            f"{folder}: of recipe {recipe.name!r} no training sample is in the store: give the recipe that "
            f"the store was captured for"
        )
    curves = measure(store, samples, labels)
    if not curves:
        raise UserError(f"{folder}: no row has two classes or more: there is no temperature to choose")
    recommended = recommend(list(curves.values()))
    say(console, f"{folder}: {len(samples):,} of {store.manifest.num_records:,} records")
    print_curves(curves, recommended, store.manifest.spec, console)
    if plot is not None:
        save_figure(draw_curves(curves, recommended, folder.name), plot)
        say(console, f"Picture: {plot}")
    if write is not None:
        write_number(write, "distillation", "temperature", recommended)
        say(console, f"Recipe: {write}, distillation.temperature")
