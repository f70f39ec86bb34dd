"""The objective of training with a teacher: task loss and distillation loss, weighted by the hardness."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsprune.distillation.loss import distillation_loss, example_weights
from dsprune.distillation.teachers import MicroBatch, Teacher
from dsprune.errors import UserError
from dsprune.recipe import Distillation
from dsprune.schedule import Timetable
from dsprune.tasks.task import Task

__all__ = ["LOSSES", "DistillationObjective"]

LOSSES = ("loss", "task_loss", "distillation_loss")
"""Names of the losses, in `DistillationObjective.losses` and in the log."""


@dataclass(frozen=True)
class DistillationObjective:
    """Computes the loss `(1 - h) * task loss + h * distillation loss`, h being the hardness.

    Attributes:
        teacher: provides the teacher's outputs.
        task: selects the rows that count.
        settings: hardness and temperature, which may change over the steps.
        timetable: converts their epochs into steps.
    """

    teacher: Teacher
    task: Task
    settings: Distillation
    timetable: Timetable

    def at(self, step: int) -> dict[str, float]:
        """Return `hardness` and `temperature` at a step."""
        steps = self.timetable.steps_per_epoch, self.timetable.total_steps
        return {name: getattr(self.settings, name).at(step, *steps) for name in ("hardness", "temperature")}

    def losses(self, outputs: Any, micro_batch: MicroBatch, step: int) -> dict[str, Tensor]:
        """Return the losses of a micro-batch by name, each the mean over outputs and examples.

        Args:
            outputs: the student's outputs, with its task loss.
            micro_batch: the examples, on the student's device.
            step: optimizer steps before this one, for hardness and temperature.

        Returns:
            `loss = (1 - h) * task_loss + h * distillation_loss`, and the two parts, without the factors.
        """
        now = self.at(step)
        signals = self.teacher.signals(micro_batch)
        rows = self.task.logit_rows(outputs, micro_batch.batch)
        for name, part in rows.items():
            if len(signals[name]) != len(part.logits):
                raise UserError(
                    f"distillation: {name}: {len(part.logits)} rows of the student and {len(signals[name])} of the "
                    f"teacher in this batch: use the labels that the store was made with"
                )
        by_output = [
            distillation_loss(
                part.logits,
                signals[name],
                now["temperature"],
                None if part.counts is None else example_weights(part.counts),
            )
            for name, part in rows.items()
        ]
        distilled = torch.stack(by_output).mean()
        loss = (1 - now["hardness"]) * outputs.loss + now["hardness"] * distilled
        return dict(zip(LOSSES, (loss, outputs.loss, distilled), strict=True))
