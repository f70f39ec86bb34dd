"""Where a student's teacher is: beside it at every step, or on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import torch
from datasets import Dataset
from torch import nn

from dsprune.distillation.signal import FullSignal, TeacherSignal
from dsprune.distillation.store import Store, open_store
from dsprune.distillation.teacher.kinds import check_fit
from dsprune.distillation.teacher.source import Source
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Distillation
from dsprune.tasks.batches import Batch, Collate, Features, on_device
from dsprune.tasks.task import Task

__all__ = ["MicroBatch", "OnlineTeacher", "StoredTeacher", "Teacher", "open_stored_teacher", "with_samples"]

SAMPLE = "sample"
"""Column of the training data with each example's fingerprint."""


Signals = Mapping[str, TeacherSignal]


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass trains on.

    Attributes:
        batch: the student's inputs, and the labels.
        stored: what a store says of these examples, by output.
    """

    batch: Batch
    stored: Signals = field(default_factory=dict)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        stored = {name: signal.to(device) for name, signal in self.stored.items()}
        return MicroBatch(on_device(self.batch, device), stored)


class Teacher(Protocol):
    """Says of each shared output what the student should have said."""

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """Make a micro-batch of examples."""

    def signals(self, micro_batch: MicroBatch) -> Signals:
        """The teacher's side of a micro-batch, by output; both are on the student's device."""


@final
class OnlineTeacher:
    """A model that answers while the student waits."""

    def __init__(self, model: nn.Module, task: Task, collate: Collate) -> None:
        self._model, self._task, self._collate = model, task, collate

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """The examples, and no more."""
        return MicroBatch(self._collate(features))

    @torch.no_grad()
    def signals(self, micro_batch: MicroBatch) -> Signals:
        """All the logits of a forward pass."""
        outputs = self._model(**self._task.inputs(micro_batch.batch))
        rows = self._task.logit_rows(outputs, micro_batch.batch)
        return {name: FullSignal(part.logits) for name, part in rows.items()}


@final
class StoredTeacher:
    """A store that was made beforehand: the records come with the examples."""

    def __init__(self, store: Store, collate: Collate) -> None:
        self._store, self._collate = store, collate

    def collate(self, features: Sequence[Features]) -> MicroBatch:
        """The examples with their records."""
        blocks = self._store.fetch([one[SAMPLE] for one in features])
        batch = self._collate([{name: one[name] for name in one if name != SAMPLE} for one in features])
        return MicroBatch(batch, {name: block.signal for name, block in blocks.items()})

    def signals(self, micro_batch: MicroBatch) -> Signals:
        """What was read."""
        return micro_batch.stored


def open_stored_teacher(
    folder: Path, settings: Distillation, source: Source, ranks: Ranks, device: torch.device
) -> Store:
    """A finished store, if it is of this recipe and whole. Collective: every rank must call this.

    Raises:
        UserError: it is of something else or damaged, lacks an example or is not what the recipe asks for.
    """
    # One rank of a host reads all of it; the system's cache has it then for the others.
    verify = ranks.local_rank == 0
    store = on_every_rank(ranks, lambda: open_store(folder, source.origin, verify=verify, device=device))
    missing = store.missing(source.samples)
    if missing:
        raise UserError(
            f"{folder}: {len(missing):,} of {len(source.samples):,} training examples have no record, the first "
            f"in row {missing[0] + 1}: the store is of dataset {store.manifest.origin.get('dataset')}, this is "
            f"{source.dataset}: give another distillation.store, to be made for it"
        )
    check_fit(folder, store.manifest.spec, settings)
    return store


def with_samples(source: Source) -> Dataset:
    """The training data with the names that the store knows them by."""
    return source.data.add_column(SAMPLE, source.samples.tolist())
