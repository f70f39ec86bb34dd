"""The distillation loss, computed in chunks in fp32, without a second copy of large logits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dsprune.distillation.signal import FullSignal, TeacherSignal
from dsprune.errors import UserError

__all__ = ["distillation_loss", "example_weights"]

CHUNK_ELEMENTS = 2**23
"""Logits that are processed together: 32 MiB of fp32, enough to keep the matrix units of a GPU busy."""


def distillation_loss(
    student: Tensor,
    teacher: Tensor | TeacherSignal,
    temperature: float,
    weights: Tensor | None = None,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Return `T^2 * KL(teacher_T || student_T)`, a weighted sum over rows, in fp32 (fp64 for fp64 logits).

    The factor keeps the size of the gradient independent of the temperature (Hinton et al. 2015; the authors' code in
    SparseML has the same factor).

    Args:
        student: the student's logits, `[rows, classes]`, without ignored rows.
        teacher: the teacher's outputs for the same rows, as logits or as a signal from a store.
        temperature: divides the logits of both.
        weights: weight of each row, `[rows]`, see `example_weights`; None = the mean over rows.
        chunk_elements: logits that are processed together; memory for temporaries is a few fp32 tensors of this size.

    Raises:
        UserError: the teacher's signal does not hold this temperature, or has another number of classes.
    """
    signal = FullSignal(teacher) if isinstance(teacher, Tensor) else teacher
    assert len(signal) == len(student), (len(signal), len(student))
    divergences = _Divergence.apply(student, signal, temperature, chunk_elements)  # type: ignore[no-untyped-call]
    if weights is None:
        weights = torch.full_like(divergences, 1 / max(1, len(student)))
    values: Tensor = temperature**2 * (divergences * weights).sum()
    return values


def example_weights(rows: Tensor) -> Tensor:
    """Return row weights `[rows]` that turn a sum into the mean over examples of the mean over the rows of each.

    An example without rows counts as zero, so the mean does not depend on how a batch is split over ranks.

    Args:
        rows: number of rows of each example, `[examples]`, in the order of the batch.

    Examples:
        >>> example_weights(torch.tensor([1, 0, 2, 1]))
        tensor([0.2500, 0.1250, 0.1250, 0.2500])
    """
    return (1 / (rows * len(rows)).float()).repeat_interleave(rows)


class _Divergence(torch.autograd.Function):
    """KL divergence of each row.

    The backward pass computes the probabilities again. Keeping them would take the memory that chunks save, and a
    gradient computed in the forward pass and kept in fp16 could underflow, because the loss is not scaled yet.

    The gradient with respect to the student's logits divided by T is `q - p`, the student's minus the teacher's
    probabilities. For top-k, the part of p in the bucket depends on q, but this does not change the divergence to
    first order: dividing the bucket in the student's proportions minimises the divergence.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, signal: TeacherSignal, temperature: float, chunk_elements: int
    ) -> Tensor:
        ctx.save_for_backward(student)
        ctx.how = (signal, temperature, chunk_elements)
        divergences = student.new_empty(len(student), dtype=_precision(student))
        for rows, log_q, log_p in _chunks(student, signal, temperature, chunk_elements):
            difference = (log_p - log_q).masked_fill_(log_p == -torch.inf, 0)  # 0 * log(0) is 0
            divergences[rows] = difference.mul_(log_p.exp_()).sum(-1)
        return divergences

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (student,) = ctx.saved_tensors
        signal, temperature, chunk_elements = ctx.how
        gradient = torch.empty_like(student)
        for rows, log_q, log_p in _chunks(student, signal, temperature, chunk_elements):
            scale = grad_output[rows, None] / temperature
            gradient[rows] = log_q.exp_().sub_(log_p.exp_()).mul_(scale)
        return gradient, None, None, None


def _chunks(
    student: Tensor, signal: TeacherSignal, temperature: float, chunk_elements: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield chunks of rows with the log-probabilities of student and teacher, which the caller may overwrite."""
    size = max(1, chunk_elements // max(1, student.shape[1]))
    for start in range(0, len(student), size):
        rows = slice(start, start + size)
        log_q = functional.log_softmax(student[rows].to(_precision(student)) / temperature, dim=-1)
        log_p = signal.log_probs(rows, temperature, log_q)
        if log_p.shape != log_q.shape:
            raise UserError(
                f"distillation: {log_p.shape[1]} classes of the teacher and {log_q.shape[1]} of the student: use a "
                f"teacher with the same head"
            )
        yield rows, log_q, log_p


def _precision(student: Tensor) -> torch.dtype:
    return torch.promote_types(student.dtype, torch.float32)
