"""`dsprune calibrate`: how soft a teacher is at each temperature, and which one to distil with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from dsprune.errors import UserError
from dsprune.programs.calibrate.labels import Labels, read_labels
from dsprune.programs.calibrate.picture import draw_curves
from dsprune.programs.calibrate.recipe_file import check_recipe_file, write_temperature
from dsprune.programs.calibrate.tables import print_curves
from dsprune.programs.figures import check_figure_path, save_figure
from dsprune.pure.calibration import GRID, Curve, Meter, recommend
from dsprune.pure.distill import example_weights
from dsprune.pure.recipe import Recipe
from dsprune.pure.store import Store, open_store

__all__ = ["calibrate", "enough_records", "measure"]

BATCH_ELEMENTS = 2**23  # logits of the records that are read together
ENOUGH_ELEMENTS = 2**26  # logits that are looked at unless more are asked for


def calibrate(
    folder: Path,
    recipe: Recipe | None,
    plot: Path | None,
    write: Path | None,
    max_records: int | None,
    console: Console,
) -> None:
    """Print what a store's teacher is like at each temperature, and recommend one.

    Args:
        folder: the store.
        recipe: its training data give the labels; None = do without.
        plot: PNG or SVG file to draw the curves in; None = none.
        write: recipe file to set the temperature in; None = none.
        max_records: look at so many records, as good as drawn at random, but the same ones each time; None = at
            `enough_records`.
        console: where to print.

    Raises:
        UserError: the store is damaged or has nothing to choose, the recipe is for other samples, encodes them
            otherwise, or a file cannot be written.
    """
    if plot is not None:
        check_figure_path(plot)
    if write is not None:
        check_recipe_file(write)
    labels = Labels() if recipe is None else read_labels(recipe)
    store = open_store(folder, labels.origin)
    fingerprints = store.fingerprints[: max_records or enough_records(store)]
    if recipe is not None and not labels.know_any(fingerprints):
        raise UserError(
            f"{folder}: of recipe {recipe.name!r} no training sample is in the store: give the recipe that "
            f"the store was captured for"
        )
    curves = measure(store, fingerprints, labels)
    if not curves:
        raise UserError(f"{folder}: no row has two classes or more: there is no temperature to choose")
    recommended = recommend(list(curves.values()))
    console.print(f"{folder}: {len(fingerprints):,} of {store.manifest.num_records:,} records", markup=False)
    print_curves(curves, recommended, store.manifest.spec, console)
    if plot is not None:
        save_figure(draw_curves(curves, recommended, folder.name), plot)
        console.print(f"Picture: {plot}", markup=False, soft_wrap=True)
    if write is not None:
        write_temperature(write, recommended)
        console.print(f"Recipe: {write}, distillation.temperature", markup=False, soft_wrap=True)


def measure(store: Store, fingerprints: np.ndarray, labels: Labels) -> dict[str, Curve]:
    """The curves of a store's outputs over some records; an output without any choice is left out."""
    spec = store.manifest.spec
    temperatures = spec.temperatures or GRID
    meters = {name: Meter(temperatures, output.classes) for name, output in spec.outputs.items()}
    for batch in _batches(store, fingerprints):
        blocks = store.fetch(batch)
        for name, meter in meters.items():
            block = blocks[name]
            # Samples count alike, whatever their number of rows, as they do in the loss.
            weights = example_weights(block.rows) * len(batch)
            meter.add(block.signal, weights, labels.of(name, batch, block.rows))
    return {name: meter.curve() for name, meter in meters.items() if meter.has_choice}


def enough_records(store: Store) -> int:
    """How many records settle the temperature: all of a classifier's, and some hundred rows of a large vocabulary.

    What is chosen from are means over rows, and all rows of a translator's store would take hours.
    """
    return _records_of(store, ENOUGH_ELEMENTS)


def _records_of(store: Store, elements: int) -> int:
    """The number of records that hold so many logits."""
    manifest = store.manifest
    total = sum(manifest.num_rows[name] * output.classes for name, output in manifest.spec.outputs.items())
    return max(1, elements * manifest.num_records // max(1, total))


def _batches(store: Store, fingerprints: np.ndarray) -> Iterator[np.ndarray]:
    """Some records at a time, fewer where they are large."""
    size = min(1024, _records_of(store, BATCH_ELEMENTS))
    for start in range(0, len(fingerprints), size):
        yield fingerprints[start : start + size]
