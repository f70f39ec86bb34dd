"""The learning rate of an engine, as the timetable schedules it."""

from deepspeed import DeepSpeedEngine
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsprune.errors import UserError
from dsprune.recipe import LearningRate
from dsprune.schedule import Timetable

__all__ = ["ScaledLR", "schedule_learning_rate"]


class ScaledLR(LambdaLR):
    """Scales the learning rate of each parameter group, which is its peak, by the timetable's multiplier.

    `last_epoch` is the step: DeepSpeed does not step the scheduler on overflow, and saves its state in every
    checkpoint.
    """

    def __init__(self, optimizer: Optimizer, timetable: Timetable) -> None:
        super().__init__(optimizer, timetable.lr_multiplier)


def schedule_learning_rate(engine: DeepSpeedEngine, settings: LearningRate, timetable: Timetable) -> None:
    """Give an engine a `ScaledLR`, unless it has one.

    Args:
        engine: an initialized engine.
        settings: the recipe's section `learning_rate`.
        timetable: when and by how much the learning rate changes.

    Raises:
        UserError: the engine has another scheduler, or its parameter groups cannot have the recipe's scales.
    """
    if engine.lr_scheduler is None:
        engine.lr_scheduler = ScaledLR(engine.basic_optimizer, timetable)
    elif not isinstance(engine.lr_scheduler, ScaledLR):
        name = type(engine.lr_scheduler).__name__
        raise UserError(f"learning_rate: the engine has a {name} of its own: make it without a scheduler")
    if settings.scale and len(set(engine.lr_scheduler.base_lrs)) == 1:
        raise UserError(
            "learning_rate.scale: every parameter group of the engine has the same rate: give each of your groups "
            "an `lr`, or let `dsprune.initialize` make them"
        )
