"""The distillation loss."""

from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss"]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(teacher_T || student_T)`, the mean over examples, in fp32.

    The factor keeps the size of the gradient independent of the temperature (Hinton et al. 2015; the authors'
    own code in SparseML scales in the same way).

    Args:
        student: logits, `[examples, classes]`.
        teacher: logits, `[examples, classes]`.
        temperature: both logits are divided by it.
    """
    student_log = functional.log_softmax(student.float() / temperature, dim=-1)
    teacher_log = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(
        student_log, teacher_log, reduction="batchmean", log_target=True
    )
