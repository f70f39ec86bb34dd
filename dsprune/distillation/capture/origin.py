"""The input of a capture: teacher, task and training data, with the fingerprints that identify them."""

from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dsprune.distillation.store import fingerprints
from dsprune.distillation.store.fingerprint import dataset_fingerprint
from dsprune.model.fingerprints import teacher_fingerprint, tokenizer_fingerprint
from dsprune.ranks.agreement import on_first_rank
from dsprune.ranks.ranks import Ranks
from dsprune.tasks.task import Task

__all__ = ["Source", "origin_of_data"]


@dataclass(frozen=True)
class Source:
    """All that a teacher's outputs depend on.

    Attributes:
        teacher: model folder, or name on the hub.
        task: encodes the examples and selects the teacher's outputs.
        tokenizer: encodes the examples.
        data: encoded training examples.
        samples: `[examples]`, their fingerprints.
        origin: fingerprints of tokenizer and preprocessing, and of the teacher if its weights are on this machine.
    """

    teacher: str
    task: Task
    tokenizer: PreTrainedTokenizerBase
    data: Dataset
    samples: np.ndarray
    origin: dict[str, str]

    @classmethod
    def of(
        cls, teacher: str, task: Task, tokenizer: PreTrainedTokenizerBase, data: Dataset, ranks: Ranks
    ) -> "Source":
        """Compute the fingerprints. Collective: every rank must call this."""
        samples = fingerprints(task.samples(data))
        source = cls(teacher, task, tokenizer, data, samples, origin_of_data(task, tokenizer))
        return source.with_teacher_fingerprint(ranks)

    def with_teacher_fingerprint(self, ranks: Ranks) -> "Source":
        """Add the teacher's fingerprint, if its weights are on this machine.

        Collective: every rank must call this.
        """
        weights = on_first_rank(ranks, lambda: teacher_fingerprint(self.teacher))
        return self if weights is None else replace(self, origin={**self.origin, "teacher": weights})

    @property
    def dataset(self) -> str:
        """Fingerprint of all examples together."""
        return dataset_fingerprint(self.samples)


def origin_of_data(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the fingerprints of what turns any example into the model's input."""
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "preprocessing": task.preprocessing()}
