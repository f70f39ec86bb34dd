"""The training data as a teacher store knows them, and what else an answer of the teacher depends on."""

from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dsprune.distillation.store import fingerprints
from dsprune.distillation.store.fingerprint import dataset_fingerprint
from dsprune.model.files import teacher_fingerprint, tokenizer_fingerprint
from dsprune.ranks.agreement import on_first_rank
from dsprune.ranks.ranks import Ranks
from dsprune.tasks.task import Task

__all__ = ["Source", "origin_of_data"]


@dataclass(frozen=True)
class Source:
    """Whom a teacher is asked about, and how.

    Attributes:
        teacher: model folder, or name on the hub.
        task: how examples are encoded, and what is asked.
        tokenizer: encodes the examples.
        data: encoded training examples.
        samples: their fingerprints.
        origin: fingerprints of teacher, tokenizer and preprocessing; the teacher's only where it is here.
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
        """Take the fingerprints. Collective: every rank must call this."""
        samples = fingerprints(task.samples(data))
        source = cls(teacher, task, tokenizer, data, samples, origin_of_data(task, tokenizer))
        return source.identified(ranks)

    def identified(self, ranks: Ranks) -> "Source":
        """With the teacher's fingerprint, if its weights are here. Collective: every rank must call this."""
        weights = on_first_rank(ranks, lambda: teacher_fingerprint(self.teacher))
        return self if weights is None else replace(self, origin={**self.origin, "teacher": weights})

    @property
    def dataset(self) -> str:
        """Fingerprint of all examples together."""
        return dataset_fingerprint(self.samples)


def origin_of_data(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What makes an example what the model reads, whichever example it is."""
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "preprocessing": task.preprocessing()}
