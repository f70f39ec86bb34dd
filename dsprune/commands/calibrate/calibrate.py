"""`dsprune calibrate`: how soft a teacher is at each temperature, and which one to distil with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from dsprune.commands.calibrate.recipe_file import check_recipe_file, write_temperature
from dsprune.commands.calibrate.tables import draw_curves, print_curves
from dsprune.distillation import example_weights
from dsprune.distillation.calibration import GRID, Curve, Meter, recommend
from dsprune.distillation.capture.source import origin_of_data
from dsprune.distillation.store import Store, fingerprints, open_store
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Recipe
from dsprune.report.drawing import check_figure_path, save_figure
from dsprune.tasks.task import build_task
from dsprune.utils.console import say

__all__ = ["UNKNOWN", "Labels", "calibrate", "enough_records", "measure", "read_labels"]

UNKNOWN = -1


@dataclass(frozen=True)
class Labels:
    """Classes of rows.

    Attributes:
        by_output: for each output, by fingerprint, the class of each of the sample's rows.
        origin: fingerprints of the tokenizer and the preprocessing that they belong to.
    """

    by_output: Mapping[str, Mapping[bytes, Sequence[int]]] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    def know_any(self, samples: np.ndarray) -> bool:
        """Whether one of the samples has a label, where the task has any."""
        names = {sample.tobytes() for sample in samples}
        known = self.by_output.values()
        return not known or any(not names.isdisjoint(output) for output in known)

    def of(self, output: str, samples: np.ndarray, rows: Tensor) -> Tensor:
        """The class of each row of some samples; `UNKNOWN` where it is not known."""
        known = self.by_output.get(output, {})
        labels: list[int] = []
        for sample, num_rows in zip(samples, rows.tolist(), strict=True):
            classes = known.get(sample.tobytes(), ())
            labels += classes if len(classes) == num_rows else [UNKNOWN] * num_rows
        return torch.tensor(labels, dtype=torch.int64)


def read_labels(recipe: Recipe) -> Labels:
    """The labels of the training data of a recipe; of samples that read the same, the first one's.

    Raises:
        UserError: the recipe does not say what is trained on, or it cannot be read.
    """
    if recipe.model is None or recipe.task is None:
        raise UserError(f"recipe {recipe.name!r}: labels need the sections model and task: add them")
    tokenizer = load_tokenizer(recipe.model.tokenizer or recipe.model.path)
    task = build_task(recipe.task)
    data = task.prepare("train", tokenizer)
    samples = [sample.tobytes() for sample in fingerprints(task.samples(data))]
    by_output: dict[str, dict[bytes, Sequence[int]]] = {}
    for output, labels in task.row_labels(data).items():
        known = by_output.setdefault(output, {})
        for sample, classes in zip(samples, labels, strict=True):
            known.setdefault(sample, classes)
    return Labels(by_output, origin_of_data(task, tokenizer))


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
        say(console, f"Picture: {plot}")
    if write is not None:
        write_temperature(write, recommended)
        say(console, f"Recipe: {write}, distillation.temperature")


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
