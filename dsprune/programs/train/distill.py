"""The loss of a student: its task's, its teacher's, or some of both."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsprune.programs.train.teachers import MicroBatch, Teacher
from dsprune.pure.distill import distillation_loss, example_weights
from dsprune.pure.recipe import Distillation
from dsprune.pure.schedule import Timetable
from dsprune.tasks.task import Task

__all__ = ["Lesson"]


@dataclass(frozen=True)
class Lesson:
    """A teacher, and how much heed is paid to it when.

    Attributes:
        teacher: who.
        task: tells which rows count.
        settings: hardness and temperature.
        timetable: what they are counted on.
    """

    teacher: Teacher
    task: Task
    settings: Distillation
    timetable: Timetable

    def at(self, clock: int) -> dict[str, float]:
        """Hardness and temperature for step `clock`."""
        steps = self.timetable.steps_per_epoch, self.timetable.total_steps
        return {name: getattr(self.settings, name).at(clock, *steps) for name in ("hardness", "temperature")}

    def loss(self, outputs: Any, micro_batch: MicroBatch, clock: int) -> Tensor:
        """`(1 - h) * task + h * T^2 * KL(teacher_T || student_T)`, the mean over outputs and examples."""
        now = self.at(clock)
        signals = self.teacher.signals(micro_batch)
        rows = self.task.logit_rows(outputs, micro_batch.batch)
        imitation = sum(
            distillation_loss(
                part.logits,
                signals[name],
                now["temperature"],
                None if part.counts is None else example_weights(part.counts),
            )
            for name, part in rows.items()
        ) / len(rows)
        return (1 - now["hardness"]) * outputs.loss + now["hardness"] * imitation
