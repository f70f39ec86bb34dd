"""Measure a teacher at each temperature from its store, and against the labels of a recipe's training data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsprune.distillation import example_weights
from dsprune.distillation.calibration import GRID, Curve, CurveMeter, recommend
from dsprune.distillation.capture.forward import origin_of_data
from dsprune.distillation.store import Store, fingerprints, open_store
from dsprune.model.pretrained import load_tokenizer
from dsprune.recipe import Recipe
from dsprune.tasks.build import build_task

__all__ = ["UNKNOWN", "Labels", "enough_records", "measure", "read_labels", "recommended_temperature"]

UNKNOWN = -1
"""The label of a row without one."""

BATCH_ELEMENTS = 2**23
"""Number of logits to read at a time."""

ENOUGH_ELEMENTS = 2**26
"""Number of logits to measure by default."""


@dataclass(frozen=True)
class Labels:
    """The labels of the rows of samples.

    Attributes:
        by_output: for each output, the class of each row of a sample, by the sample's fingerprint.
        origin: fingerprints of the samples' tokenizer and preprocessing.
    """

    by_output: Mapping[str, Mapping[bytes, Sequence[int]]] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    def cover_any(self, samples: np.ndarray) -> bool:
        """Whether at least one of the samples has a label; True for a task without labels."""
        names = {sample.tobytes() for sample in samples}
        known = self.by_output.values()
        return not known or any(not names.isdisjoint(output) for output in known)

    def of(self, output: str, samples: np.ndarray, rows: Tensor) -> Tensor:
        """Return the class of each row of some samples, `UNKNOWN` for a row without a label."""
        known = self.by_output.get(output, {})
        labels: list[int] = []
        for sample, num_rows in zip(samples, rows.tolist(), strict=True):
            classes = known.get(sample.tobytes(), ())
            labels += classes if len(classes) == num_rows else [UNKNOWN] * num_rows
        return torch.tensor(labels, dtype=torch.int64)


def read_labels(recipe: Recipe) -> Labels:
    """Read the labels of a recipe's training data; of samples with equal inputs, only the first.

    Raises:
        UserError: the recipe has no model or task, or its data cannot be read.
    """
    if recipe.model is None or recipe.task is None:
        raise recipe.lacks("calibrate", "model", "task")
    tokenizer = load_tokenizer(recipe.model.tokenizer_path)
    task = build_task(recipe.task)
    data = task.prepare("train", tokenizer)
    samples = [sample.tobytes() for sample in fingerprints(task.samples(data))]
    by_output: dict[str, dict[bytes, Sequence[int]]] = {}
    for output, labels in task.row_labels(data).items():
        known = by_output.setdefault(output, {})
        for sample, classes in zip(samples, labels, strict=True):
            known.setdefault(sample, classes)
    return Labels(by_output, origin_of_data(task, tokenizer))


def measure(store: Store, samples: np.ndarray, labels: Labels) -> dict[str, Curve]:
    """Return the curve of each output over some samples; outputs with a single class are left out."""
    spec = store.manifest.spec
    temperatures = spec.temperatures or GRID
    meters = {name: CurveMeter(temperatures, output.classes) for name, output in spec.outputs.items()}
    for batch in _batches(store, samples):
        blocks = store.fetch(batch)
        for name, meter in meters.items():
            block = blocks[name]
            # As in the loss, every sample has the same weight, for any number of rows.
            weights = example_weights(block.rows) * len(batch)
            meter.add(block.signal, weights, labels.of(name, batch, block.rows))
    return {name: meter.curve() for name, meter in meters.items() if meter.has_choice}


def recommended_temperature(folder: Path) -> float:
    """Return the temperature that calibrating a store recommends, as `dsprune calibrate` does by default."""
    store = open_store(folder)
    samples = store.fingerprints[: enough_records(store)]
    return recommend(list(measure(store, samples, Labels()).values()))


def enough_records(store: Store) -> int:
    """Return the number of records to measure: all for a classifier, some hundred rows for a large vocabulary.

    The temperature depends only on means over rows, and reading all rows of a translation store would take hours.
    """
    return _records_of(store, ENOUGH_ELEMENTS)


def _records_of(store: Store, elements: int) -> int:
    """Return the number of records that hold about `elements` logits."""
    manifest = store.manifest
    total = sum(manifest.num_rows[name] * output.classes for name, output in manifest.spec.outputs.items())
    return max(1, elements * manifest.num_records // max(1, total))


def _batches(store: Store, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some samples at a time, fewer if their records are large."""
    size = min(1024, _records_of(store, BATCH_ELEMENTS))
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
