"""The recipe: all settings of a run, typed and validated."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from dsprune.errors import UserError
from dsprune.recipe.rate import LearningRate, scaled_peak
from dsprune.recipe.section import LARGEST, Place, Positive, Section
from dsprune.recipe.sections import Checkpoints, Distillation, Model, Optimizer, Tracking
from dsprune.recipe.span import Ramp, Span
from dsprune.recipe.task import Task
from dsprune.recipe.timing import Budget, Pruning, Start
from dsprune.utils.documents import write_yaml
from dsprune.utils.text import flatten

__all__ = ["TEMPERATURE", "Recipe", "dump_recipe", "recipe_schema", "settings_of", "with_spans"]


TEMPERATURE: Mapping[Start, Ramp] = {
    "pretrained": Ramp(first=1.0, final=1.0),
    "fine-tuned": Ramp(first=2.0, final=2.0),
}
"""Default of `distillation.temperature`. A model that learns the task from its teacher needs more steps with softened
logits; one that starts from its teacher learns more from them. Measured at T = 1 and 2, accuracy in per cent, one run
each unless stated (`scripts/results`):

- From a pretrained model: 77 intents, 90 %, test split, one epoch 86.1 and 82.9, three epochs with different seeds 89.6
  and 89.9; GTS on MAWPS, 80 %, 480 steps 52.3 and 31.3.
- From the fine-tuned model, validation split: movie reviews, 90 %, one epoch, two seeds 81.2 and 82.4; 77 intents,
  90 %, 200 steps 89.2 and 89.4; MAWPS, three epochs, 90 % 82.3 and 81.8, 97 % 77.3 and 76.3.
"""


class Recipe(Section):
    """All settings of a run: model, task, length, pruning schedule and the rest."""

    name: str = Field(pattern=r"^\w[\w.-]*$", max_length=200)
    """Name of the recipe and of the run's folder. Default: the recipe's file name without its extension."""

    model: Model | None = None
    """The model to start from. Default: null = your own script passes the model to `dsprune.initialize`."""

    task: Task | None = None
    """The task and its data. Default: null = your own script provides the data."""

    budget: Budget
    """Length of the run and batch size."""

    pruning: Pruning | None = Field(default=None, validate_default=True)
    """What is pruned and when. Default: null = nothing is pruned: dense fine-tuning, for a teacher or a baseline."""

    learning_rate: LearningRate = LearningRate()
    """The learning-rate schedule."""

    optimizer: Optimizer = Optimizer()
    """The optimizer and its settings."""

    distillation: Distillation | None = None
    """The teacher and the distillation loss. Default: null = no distillation."""

    checkpoints: Checkpoints = Checkpoints()
    """When checkpoints are saved and which are kept."""

    tracking: Tracking = Tracking()
    """Logging and evaluation."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the working weights. The optimizer's copy is always fp32. Default: `fp32`."""

    gradient_clipping: float = Field(default=1.0, ge=0, le=LARGEST)
    """Largest norm of the gradient. 0 = no clipping. Default: 1.0."""

    deepspeed: Place = "zero2"
    """DeepSpeed config: the name of a file in ds_configs or the path of a JSON file. Default: `zero2`."""

    seed: int = Field(default=42, ge=0, le=LARGEST)
    """Seed for new weights, the order of examples and dropout. Default: 42."""

    timeout: Positive = 600.0
    """Seconds without progress after which a rank assumes that another rank is lost, and exits. Default: 600."""

    output: Place = "runs"
    """Folder in which the run's folder is created. Default: `runs`."""

    @field_validator("pruning")
    @classmethod
    def _length_is_known(cls, pruning: Pruning | None, info: ValidationInfo) -> Pruning | None:
        budget = info.data.get("budget")
        if pruning is None and budget is not None and budget.epochs is None and budget.steps is None:
            raise ValueError(
                "no target sparsity to derive the length of the run from: give budget.epochs or budget.steps"
            )
        return pruning

    @field_validator("learning_rate")
    @classmethod
    def _scale_the_peak(cls, rate: LearningRate, info: ValidationInfo) -> LearningRate:
        if rate.dense is None or rate.peak is not None:
            return rate
        pruning = info.data.get("pruning")
        return rate.model_copy(update={"peak": scaled_peak(rate.dense, pruning.sparsity if pruning else 0.0)})

    @field_validator("distillation")
    @classmethod
    def _soften_the_teacher(cls, settings: Distillation | None, info: ValidationInfo) -> Distillation | None:
        if settings is None or "temperature" in settings.model_fields_set:
            return settings
        start = _start_of(info.data.get("model"), settings)
        filled = settings.model_copy(update={"temperature": TEMPERATURE[start]})
        # So that `plan` can distinguish it from an explicit value.
        filled.model_fields_set.discard("temperature")
        return filled

    @property
    def start(self) -> Start:
        """Whether the model is fine-tuned for the task at the start, as it is if it is its own teacher."""
        return _start_of(self.model, self.distillation)

    def lacks(self, user: str, *sections: str) -> UserError:
        """Return the error that `user` needs sections, if this recipe lacks one."""
        *others, last = sections
        return UserError(
            f"recipe {self.name!r}: {user} needs the sections {', '.join(others)} and {last}: add them"
        )

    @property
    def dropout(self) -> float | None:
        """Dropout probability of the whole model, from the recipe or the schedule law; None = the model's own.

        A run that prunes or distils has no dropout: both regularise, and in a short run dropout slows down learning.
        Measured to 90 % with one seed each (`scripts/results/recovery`, validation split), with dropout 0.1 and 0:
        labels alone, from the pretrained model, 77 intents 80.6 and 87.4 % after one epoch, 91.6 and 91.0 after three;
        movie reviews 81.9 and 81.3 after one; from the fine-tuned model with its own logits, 77 intents 90.5 and 90.3.
        """
        given = None if self.model is None else self.model.dropout
        if given is not None:
            return None if given == "model" else given
        return None if self.pruning is None and self.distillation is None else 0.0


def _start_of(model: Model | None, distillation: Distillation | None) -> Start:
    if model is None:
        return "pretrained"
    is_teacher = distillation is not None and distillation.teacher == model.path
    return model.start or ("fine-tuned" if is_teacher else "pretrained")


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default filled in; `load_recipe` reads an equal recipe from it."""
    return write_yaml(recipe.model_dump(mode="json"))


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files with the documentation of every field, for use in editors."""
    # In this mode the defaults of spans are written as in a recipe.
    return Recipe.model_json_schema(mode="serialization")


POINTS = {"pruning": ("start", "end"), "learning_rate": ("warmup", "rewind_at")}
"""The fields with points of the run, by section; those of ramps are points, too."""

DISTANCES = {"pruning": ("every",), "learning_rate": ("hold", "decay_every")}
"""The fields with distances between two changes, by section."""


def with_spans(recipe: Recipe, change: Callable[[Span], Span], *, distances: bool) -> dict[str, Any]:
    """Return the values of a recipe with all points of its schedule changed, and its distances if asked.

    Percentages of the run are kept, and so are the distances between checkpoints and between evaluations.
    """

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return value if value is None or value.unit == "%" else change(value)

    values = recipe.model_dump()
    for fields in (POINTS, DISTANCES) if distances else (POINTS,):
        for section, names in fields.items():
            if (part := getattr(recipe, section)) is not None:
                values[section] |= {name: changed(getattr(part, name)) for name in names}
    for name, ramp in recipe.distillation or ():
        if isinstance(ramp, Ramp):
            spans = {"start": changed(ramp.start), "end": changed(ramp.end)}
            values["distillation"][name] = ramp.model_copy(update=spans)
    return values


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return every setting by its dotted key, such as `learning_rate.peak`."""
    return dict(flatten(recipe.model_dump(mode="json")))
