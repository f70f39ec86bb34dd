"""The training data as a teacher store knows them, and what else an answer of the teacher depends on."""

from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dsprune.distributed.ranks import Ranks
from dsprune.distributed.together import on_first_rank
from dsprune.pure.store import fingerprints
from dsprune.tasks.origin import dataset_fingerprint, origin_of_data, teacher_fingerprint
from dsprune.tasks.task import Task

__all__ = ["Source"]


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
