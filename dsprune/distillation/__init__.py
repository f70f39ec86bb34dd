"""Knowledge distillation: the loss, an online or stored teacher, and the temperature.

loss.py            the distillation loss and its gradient
signal.py          the teacher's side of the loss: full logits, the k largest, or hidden states
objective.py       the loss of a training step, or of a collated batch in a script: task loss and distillation loss
teachers.py        where the teacher's outputs come from: a forward pass at every step, or a store
matching.py        the check that a store matches a recipe
capture/           running the teacher once over the training data, to make a store
store/             the store on disk
calibration.py     statistics of a stored teacher by temperature
"""

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
