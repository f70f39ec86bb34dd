"""The loss of a student: its task's, its teacher's, or some of both."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsprune.distillation.loss import distillation_loss, example_weights
from dsprune.distillation.teachers import MicroBatch, Teacher
from dsprune.recipe import Distillation
from dsprune.schedule import Timetable
from dsprune.tasks.task import Task

__all__ = ["LOSSES", "DistillationObjective"]

LOSSES = ("loss", "task_loss", "distillation_loss")
"""What a lesson's losses are called, where they are logged too."""


@dataclass(frozen=True)
class DistillationObjective:
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

    def at(self, step: int) -> dict[str, float]:
        """Hardness and temperature for step `step`."""
        steps = self.timetable.steps_per_epoch, self.timetable.total_steps
        return {name: getattr(self.settings, name).at(step, *steps) for name in ("hardness", "temperature")}

    def losses(self, outputs: Any, micro_batch: MicroBatch, step: int) -> dict[str, Tensor]:
        """`loss` = `(1 - h) * task + h * T^2 * KL(teacher_T || student_T)`, and these two parts by themselves.

        Each is the mean over outputs and examples.
        """
        now = self.at(step)
        signals = self.teacher.signals(micro_batch)
        rows = self.task.logit_rows(outputs, micro_batch.batch)
        each = [
            distillation_loss(
                part.logits,
                signals[name],
                now["temperature"],
                None if part.counts is None else example_weights(part.counts),
            )
            for name, part in rows.items()
        ]
        imitation = torch.stack(each).mean()
        loss = (1 - now["hardness"]) * outputs.loss + now["hardness"] * imitation
        return dict(zip(LOSSES, (loss, outputs.loss, imitation), strict=True))
