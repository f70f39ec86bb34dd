"""The timetable's learning rate, as a scheduler that DeepSpeed steps after every applied optimizer step."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsprune.pure.schedule import Timetable

__all__ = ["ScaledLR"]


class ScaledLR(LambdaLR):
    """Each parameter group's own learning rate is its peak; the timetable says what fraction of it to take.

    `last_epoch` is the clock: DeepSpeed does not step the scheduler on overflow, and its state is part of
    every checkpoint.
    """

    def __init__(self, optimizer: Optimizer, timetable: Timetable) -> None:
        super().__init__(optimizer, timetable.lr_multiplier)
