"""All tasks by name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from dsprune.errors import UserError
from dsprune.tasks.commonsense import COMMONSENSE
from dsprune.tasks.equations import EQUATIONS
from dsprune.tasks.glue import GLUE
from dsprune.tasks.language_modeling import CausalLanguageModeling, MaskedLanguageModeling
from dsprune.tasks.multiple_choice import MultipleChoice
from dsprune.tasks.proteins import PROTEINS
from dsprune.tasks.question_answering import QUESTION_ANSWERING
from dsprune.tasks.regression import Regression
from dsprune.tasks.task import Task, TaskSettings
from dsprune.tasks.text_classification import TextClassification
from dsprune.tasks.translation import TRANSLATION

__all__ = ["TASKS", "build_task"]

TASKS: Mapping[str, Callable[[TaskSettings], Task]] = {
    "text-classification": TextClassification,
    "regression": Regression,
    "multiple-choice": MultipleChoice,
    "masked-language-modeling": MaskedLanguageModeling,
    "causal-language-modeling": CausalLanguageModeling,
    **QUESTION_ANSWERING,
    **TRANSLATION,
    **EQUATIONS,
    **GLUE,
    **COMMONSENSE,
    **PROTEINS,
}


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
