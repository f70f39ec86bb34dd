"""Make the task that a recipe names."""

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.registry import TASKS
from dsprune.tasks.rows import check_columns
from dsprune.tasks.task import Task

__all__ = ["build_task"]

RARE = ("loss", "alpha", "beta", "separators", "thresholds", "head", "decoder", "decoder_size")
"""Fields of the task section that are refused for a task that does not use them: they change what is learned."""


def build_task(settings: TaskSettings) -> Task:
    """Return the task that the settings name.

    Raises:
        UserError: there is no such task, or it does not have one of the settings.
    """
    task: Task = TASKS.get(settings.name)(settings)
    for field, value in settings.model_dump(include=set(RARE) - set(task.uses)).items():
        if value != TaskSettings.model_fields[field].default:
            raise UserError(
                f"task.{field}: value {value}: the task {settings.name} has no such setting: leave it out"
            )
    check_columns(task.columns(), settings)
    return task
