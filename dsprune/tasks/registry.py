"""All tasks by name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from dsprune.errors import UserError
from dsprune.tasks.glue import GLUE
from dsprune.tasks.task import Task, TaskSettings
from dsprune.tasks.text_classification import TextClassification

__all__ = ["TASKS", "build_task"]

TASKS: Mapping[str, Callable[[TaskSettings], Task]] = {"text-classification": TextClassification, **GLUE}


def build_task(settings: TaskSettings) -> Task:
    """The task that the settings name.

    Raises:
        UserError: there is no such task.
    """
    if settings.name not in TASKS:
        close = get_close_matches(settings.name, TASKS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"task.name: {settings.name!r}: {hint}the tasks are {', '.join(TASKS)}")
    return TASKS[settings.name](settings)
