"""The labels of a recipe's training data, by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dsprune.errors import UserError
from dsprune.pure.recipe import Recipe
from dsprune.pure.store import fingerprints
from dsprune.tasks.origin import origin_of_data
from dsprune.tasks.pretrained import load_tokenizer
from dsprune.tasks.registry import build_task

__all__ = ["UNKNOWN", "Labels", "read_labels"]

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
