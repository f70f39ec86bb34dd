"""What a student learns from a teacher's logits, whole, cut to the largest or rebuilt from hidden states."""

from dsprune.distillation.loss import distillation_loss, example_weights
from dsprune.distillation.signal import FullSignal, Head, HiddenSignal, TeacherSignal, TopKSignal

__all__ = [
    "FullSignal",
    "Head",
    "HiddenSignal",
    "TeacherSignal",
    "TopKSignal",
    "distillation_loss",
    "example_weights",
]
