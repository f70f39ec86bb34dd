"""The input of a capture with its fingerprints, and the teacher model that computes the rows to store."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dsprune.distillation.signal import Head
from dsprune.distillation.store import fingerprints
from dsprune.distillation.store.format import dataset_fingerprint
from dsprune.model.fingerprints import teacher_fingerprint, tokenizer_fingerprint
from dsprune.ranks.agreement import on_first_rank
from dsprune.tasks.examples import on_device
from dsprune.tasks.task import Task
from dsprune.utils.dtypes import DTYPES
from dsprune.zero.parameters import full_tensor, shard_for_inference

__all__ = ["Execution", "Source", "TeacherModel", "origin_of_data"]

Rows = dict[str, Tensor]
"""Rows of each output, `[rows, classes]` or `[rows, hidden]`."""


@dataclass(frozen=True)
class Source:
    """Everything that determines a teacher's outputs.

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
    def of(cls, teacher: str, task: Task, tokenizer: PreTrainedTokenizerBase, data: Dataset) -> "Source":
        """Compute the fingerprints. Collective, once ranks are joined: every rank must call this."""
        samples = fingerprints(task.samples(data))
        source = cls(teacher, task, tokenizer, data, samples, origin_of_data(task, tokenizer))
        return source.with_teacher_fingerprint()

    def with_teacher_fingerprint(self) -> "Source":
        """Use the first rank's fingerprint of the teacher; it has one if the weights are on its machine.

        Collective: every rank must call this.
        """
        weights = on_first_rank(lambda: teacher_fingerprint(self.teacher))
        found = {} if weights is None else {"teacher": weights}
        others = {name: value for name, value in self.origin.items() if name != "teacher"}
        return replace(self, origin=others | found)

    @property
    def dataset(self) -> str:
        """Fingerprint of all examples together."""
        return dataset_fingerprint(self.samples)


def origin_of_data(task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the fingerprints of tokenizer and preprocessing."""
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "preprocessing": task.preprocessing()}


@dataclass(frozen=True)
class Execution:
    """Settings for running the teacher.

    Attributes:
        device: the device of the model.
        batch_size: examples of a forward pass on one rank.
        precision: type of the weights: fp32, bf16 or fp16.
        sharded: shard the weights over the ranks, which makes every forward pass collective.
    """

    device: torch.device
    batch_size: int = 32
    precision: str = "fp32"
    sharded: bool = False


class TeacherModel:
    """The loaded teacher of a source.

    Collective when sharded: every rank must create it, and take part in each forward pass.

    Attributes:
        classes: width of the rows of each output.
        hidden: input width of the last layer of each output; empty if the task has no linear heads.
    """

    def __init__(self, source: Source, execution: Execution) -> None:
        dtype = DTYPES[execution.precision]
        task, tokenizer = source.task, source.tokenizer
        model = task.build_model(source.teacher, tokenizer, new_head=False)
        model.eval().requires_grad_(False)
        self.classes = task.classes(model.config)
        self._heads = task.heads(model)
        self.hidden = {name: head.in_features for name, head in self._heads.items()}
        self._source, self._device = source, execution.device
        self._collate = task.collate(tokenizer, None if dtype is torch.float32 else 8)
        self._inputs: Rows = {}
        for name, head in self._heads.items():
            head.register_forward_pre_hook(partial(self._keep_input, name))
        module: nn.Module = model
        if execution.sharded:
            self._model: Any = shard_for_inference(module, dtype)
        else:
            self._model = module.to(device=execution.device, dtype=dtype)

    def heads(self) -> dict[str, Head]:
        """Return copies of the last layers on the CPU. Collective when sharded: every rank must call this."""
        return {name: Head(full_tensor(head.weight), _bias(head)) for name, head in self._heads.items()}

    @torch.no_grad()
    def rows(self, examples: np.ndarray, *, hidden: bool = False) -> Rows:
        """Run a forward pass and return the rows of each output.

        Collective when sharded: every rank must call this.

        Args:
            examples: indices in the training data.
            hidden: return the inputs of the last layers instead of the logits.
        """
        features = self._source.data.__getitems__(examples.tolist())
        batch = on_device(self._collate(features), self._device)
        outputs = self._model(**self._source.task.inputs(batch))
        rows = self._source.task.logit_rows(self._inputs if hidden else outputs, batch)
        return {name: part.logits for name, part in rows.items()}

    def _keep_input(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._inputs[name] = inputs[0]


def _bias(head: nn.Linear) -> Tensor:
    """Return a copy on the CPU; zeros if the layer has no bias. Collective when sharded."""
    return torch.zeros(head.out_features) if head.bias is None else full_tensor(head.bias)
