"""The teacher's side of the distillation loss: full logits, the k largest, or hidden states."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dsprune.errors import UserError

__all__ = ["FullSignal", "Head", "HiddenSignal", "TeacherSignal", "TopKSignal"]


class TeacherSignal(ABC):
    """The teacher's outputs for some rows; a row is one softmax over the classes.

    A logit of -inf excludes a class from its row.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """Return the teacher's log-probabilities of some rows, `[rows, classes]`.

        Args:
            rows: the rows.
            temperature: divides the teacher's logits.
            student: the student's log-probabilities of these rows at this temperature, `[rows, classes]`. The result
                has their type. If the signal holds only a sum over classes, this probability is divided among
                the classes in the student's proportions.

        Raises:
            UserError: the signal cannot be evaluated at this temperature.
        """

    @abstractmethod
    def apply(self, change: Callable[[Tensor], Tensor]) -> "TeacherSignal":
        """Return the signal with all its tensors changed, for example moved to a device."""


@dataclass(frozen=True)
class FullSignal(TeacherSignal):
    """All logits, `[rows, classes]`."""

    logits: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """Return the log-softmax of the logits."""
        return functional.log_softmax(self.logits[rows].to(student.dtype) / temperature, dim=-1)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "FullSignal":
        """Return the signal with its logits changed."""
        return FullSignal(change(self.logits))


@dataclass(frozen=True)
class Head:
    """The linear layer after the hidden states: `weight [classes, hidden]`, `bias [classes]`."""

    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> "Head":
        """Return the head on `device`."""
        return Head(self.weight.to(device, non_blocking=True), self.bias.to(device, non_blocking=True))


@dataclass(frozen=True)
class HiddenSignal(TeacherSignal):
    """The input of the teacher's last linear layer, `[rows, hidden]`, and that layer.

    The logits are recomputed from both, in the head's type, so every temperature is possible.
    """

    hidden: Tensor
    head: Head

    def __len__(self) -> int:
        return len(self.hidden)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """Return the log-softmax of the logits that the head computes."""
        hidden = self.hidden[rows].to(self.head.weight.dtype)
        logits = functional.linear(hidden, self.head.weight, self.head.bias).to(student.dtype)
        return functional.log_softmax(logits / temperature, dim=-1)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "HiddenSignal":
        """Return the signal with hidden states and head changed."""
        return HiddenSignal(change(self.hidden), Head(change(self.head.weight), change(self.head.bias)))


@dataclass(frozen=True)
class TopKSignal(TeacherSignal):
    """The k largest logits of each row, and the total mass of all others.

    `rest[:, j]` is `logsumexp(z / temperatures[j])` over the logits z that are not among the k. The other classes form
    one bucket with the teacher's mass, which is divided in the student's proportions. So the loss is the KL divergence
    of the distributions over k + 1 outcomes.

    Attributes:
        values: the k largest logits, `[rows, k]`, up to a constant per row.
        indices: their classes, `[rows, k]`, integers.
        rest: fp32, `[rows, temperatures]`, up to the same constants.
        temperatures: the temperatures of the columns of `rest`.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor
    temperatures: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """Return the log-probabilities of the k classes, and those of the others in the student's proportions."""
        values = self.values[rows].to(student.dtype) / temperature
        rest = self.rest[rows, self._column(temperature)].to(student.dtype)[:, None]
        total = torch.logaddexp(values.logsumexp(-1, keepdim=True), rest)
        indices = self.indices[rows].long()
        others = student.scatter(-1, indices, -torch.inf)
        mass = others.logsumexp(-1, keepdim=True)
        mass.masked_fill_(mass == -torch.inf, 0)  # without other classes: -inf - -inf would be NaN
        return others.add_(rest - total - mass).scatter_(-1, indices, values - total)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "TopKSignal":
        """Return the signal with values, indices and rest changed."""
        return TopKSignal(change(self.values), change(self.indices), change(self.rest), self.temperatures)

    def _column(self, temperature: float) -> int:
        if temperature not in self.temperatures:
            known = ", ".join(f"{value:g}" for value in self.temperatures)
            raise UserError(
                f"distillation.temperature: value {temperature:g}: the top-k store holds {known} only: "
                f"use one of them, or make the store again with this one in distillation.temperatures"
            )
        return self.temperatures.index(temperature)
