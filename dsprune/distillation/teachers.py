"""The sources of the teacher's outputs in training: a forward pass at each step, or a store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from torch import Tensor, nn

from dsprune.distillation.capture.forward import Source
from dsprune.distillation.signal import FullSignal, TeacherSignal
from dsprune.distillation.store import Store
from dsprune.tasks.examples import Batch, Collate, Features
from dsprune.tasks.task import Task

__all__ = ["MicroBatch", "OnlineTeacher", "StoredTeacher", "Teacher", "with_fingerprints"]

FINGERPRINT = "fingerprint"
"""Column of the training data that holds the fingerprint of each example."""

Signals = Mapping[str, TeacherSignal]


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass in training.

    Attributes:
        batch: the student's inputs, and the labels.
        stored: the teacher's outputs for these examples by name, if they come from a store.
    """

    batch: Batch
    stored: Signals = field(default_factory=dict)

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the micro-batch on `device`."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """Return the micro-batch in pinned memory, from which it is copied to an accelerator in the background."""
        return self.apply(lambda tensor: tensor if tensor.device.type != "cpu" else tensor.pin_memory())

    def apply(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        """Return the micro-batch with all its tensors changed."""
        batch = {name: change(tensor) for name, tensor in self.batch.items()}
        return MicroBatch(batch, {name: signal.apply(change) for name, signal in self.stored.items()})


class Teacher(Protocol):
    """Provides the teacher's side of the distillation loss for each micro-batch."""

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """Make a micro-batch of encoded examples, on the CPU."""

    def signals(self, micro_batch: MicroBatch) -> Signals:
        """Return the teacher's outputs by name; micro-batch and result are on the student's device."""


@final
class OnlineTeacher:
    """A teacher model that runs at every step."""

    def __init__(self, model: nn.Module, task: Task, collate: Collate) -> None:
        self._model, self._task, self._collate = model, task, collate

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """Make a micro-batch without stored outputs."""
        return MicroBatch(self._collate(features))

    @torch.no_grad()
    def signals(self, micro_batch: MicroBatch) -> Signals:
        """Return the full logits of a forward pass."""
        outputs = self._model(**self._task.inputs(micro_batch.batch))
        rows = self._task.logit_rows(outputs, micro_batch.batch)
        return {name: FullSignal(part.logits) for name, part in rows.items()}


@final
class StoredTeacher:
    """A teacher store, which is read together with the examples."""

    def __init__(self, store: Store, collate: Collate) -> None:
        self._store, self._collate = store, collate

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """Make a micro-batch of the examples and their records in the store."""
        blocks = self._store.fetch([one[FINGERPRINT] for one in features])
        batch = self._collate([{name: one[name] for name in one if name != FINGERPRINT} for one in features])
        return MicroBatch(batch, {name: block.signal for name, block in blocks.items()})

    def signals(self, micro_batch: MicroBatch) -> Signals:
        """Return the stored outputs of the micro-batch."""
        return micro_batch.stored


def with_fingerprints(source: Source) -> Dataset:
    """Return the training data with a column of fingerprints, for `StoredTeacher.collate`."""
    width, count = source.samples.itemsize, len(source.samples)
    ends = pa.py_buffer(np.arange(0, width * count + 1, width))
    column = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), count, [None, ends, pa.py_buffer(source.samples)]
    )
    return source.data.add_column(FINGERPRINT, column, new_fingerprint=generate_random_fingerprint())
