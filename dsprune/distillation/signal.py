"""What is known of a teacher's output, row by row, and the distribution that follows from it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dsprune.errors import UserError

__all__ = ["FullSignal", "Head", "HiddenSignal", "TeacherSignal", "TopKSignal"]


class TeacherSignal(ABC):
    """The teacher's side of some rows; a row is one softmax, over `classes`.

    A logit of -inf is a class that does not take part in its row.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """The teacher's log-probabilities of some rows, `[rows, classes]`.

        Args:
            rows: which.
            temperature: divides the teacher's logits.
            student: the student's log-probabilities of these rows at this temperature; the result has their
                type, and what the signal does not tell apart is shared out as the student does it.

        Raises:
            UserError: the signal does not hold what this temperature needs.
        """

    @abstractmethod
    def to(self, device: torch.device) -> "TeacherSignal":
        """The signal on `device`."""


@dataclass(frozen=True)
class FullSignal(TeacherSignal):
    """All logits, `[rows, classes]`."""

    logits: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """The softmax of the logits."""
        return functional.log_softmax(self.logits[rows].to(student.dtype) / temperature, dim=-1)

    def to(self, device: torch.device) -> "FullSignal":
        """The logits on `device`."""
        return FullSignal(self.logits.to(device, non_blocking=True))


@dataclass(frozen=True)
class Head:
    """The linear layer behind the hidden states: `weight [classes, hidden]`, `bias [classes]`."""

    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> "Head":
        """The head on `device`; itself when it is there."""
        return Head(self.weight.to(device, non_blocking=True), self.bias.to(device, non_blocking=True))


@dataclass(frozen=True)
class HiddenSignal(TeacherSignal):
    """The input of the teacher's last linear layer, `[rows, hidden]`, and that layer.

    Logits are computed again from them, in the head's type; so every temperature is known.
    """

    hidden: Tensor
    head: Head

    def __len__(self) -> int:
        return len(self.hidden)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """The softmax of the logits that the head makes."""
        hidden = self.hidden[rows].to(self.head.weight.dtype)
        logits = functional.linear(hidden, self.head.weight, self.head.bias).to(student.dtype)
        return functional.log_softmax(logits / temperature, dim=-1)

    def to(self, device: torch.device) -> "HiddenSignal":
        """Hidden states and head on `device`."""
        return HiddenSignal(self.hidden.to(device, non_blocking=True), self.head.to(device))


@dataclass(frozen=True)
class TopKSignal(TeacherSignal):
    """The k largest logits of each row, and what all others weigh together.

    More precisely, `rest[:, j]` is `logsumexp(z / temperatures[j])` over the logits z that are not among the
    k. The others are one bucket: its mass is the teacher's, how it is shared out inside is the student's own
    affair, so the loss is the KL divergence of the distributions over k + 1 outcomes.

    Attributes:
        values: logits, `[rows, k]`, up to a constant a row.
        indices: their classes, `[rows, k]`, integers.
        rest: fp32, `[rows, temperatures]`, up to the same constant.
        temperatures: those that `rest` is known for.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor
    temperatures: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    def log_probs(self, rows: slice, temperature: float, student: Tensor) -> Tensor:
        """What is known of the k, and the rest in the proportions of the student."""
        values = self.values[rows].to(student.dtype) / temperature
        rest = self.rest[rows, self._column(temperature)].to(student.dtype)[:, None]
        total = torch.logaddexp(values.logsumexp(-1, keepdim=True), rest)
        indices = self.indices[rows].long()
        others = student.scatter(-1, indices, -torch.inf)
        mass = others.logsumexp(-1, keepdim=True)
        mass.masked_fill_(mass == -torch.inf, 0)  # no others at all: -inf must not meet -inf
        return others.add_(rest - total - mass).scatter_(-1, indices, values - total)

    def to(self, device: torch.device) -> "TopKSignal":
        """Values, indices and rest on `device`."""
        values, indices, rest = (
            tensor.to(device, non_blocking=True) for tensor in (self.values, self.indices, self.rest)
        )
        return TopKSignal(values, indices, rest, self.temperatures)

    def _column(self, temperature: float) -> int:
        if temperature not in self.temperatures:
            known = ", ".join(f"{value:g}" for value in self.temperatures)
            raise UserError(
                f"distillation.temperature: value {temperature:g}: the top-k store knows {known} only: "
                f"use one of them, or capture the store again with this one declared"
            )
        return self.temperatures.index(temperature)
