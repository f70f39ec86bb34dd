"""Sections of the recipe: the model, the task, the optimizer, the teacher, the checkpoints, the log.

The literal under each field is its documentation, and its description in the JSON schema.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from dsprune.recipe.ramp import Ramp, within
from dsprune.recipe.span import Span
from dsprune.registry import TASKS, Registry

__all__ = [
    "Checkpoints",
    "Distillation",
    "Fraction",
    "Model",
    "Named",
    "Optimizer",
    "Section",
    "Task",
    "Text",
    "Tracking",
]

Text = Annotated[str, Field(min_length=1)]


Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Named:
    """Annotation of a text field: a name in a registry.

    Attributes:
        registry: holds the names, for validation and for the JSON schema.
        late: leave the check to whoever uses the name, where listing the names is slow.
    """

    registry: Registry
    late: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema if self.late else core_schema.no_info_after_validator_function(self._check, schema)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.registry)}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.problem(name))
        return name


class Section(BaseModel):
    """What all sections share: they are frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Model(Section):
    """The model to start from."""

    path: Text
    """Folder of a Hugging Face model, or its name on the hub."""

    tokenizer: Text | None = None
    """Folder or hub name of the tokenizer; null = the model's own."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers to keep, counted from 0, the others being dropped at the start; null = all."""


class Task(Section):
    """What the model is trained to do, and on which data."""

    name: Annotated[Text, Named(TASKS, late=True)]
    """Name of the task: a known one such as `sst2`, or a general kind such as `text-classification`."""

    dataset: Text | None = None
    """Name of the data set on the hub; null = the task's own, or the local data below."""

    config: Text | None = None
    """Configuration of the data set on the hub, where it has several."""

    folder: Text | None = None
    """Local folder with the task's data as their authors publish them; `dsprune data TASK` says what is in it."""

    train: Text | None = None
    """Local file with the training examples: csv, tsv, jsonl or parquet, or what the task is published in."""

    validation: Text | None = None
    """Local file with the validation examples, likewise."""

    text: Text | None = None
    """Column with the text; null = the task's own."""

    text_pair: Text | None = None
    """Column with the second text, for tasks on pairs, or with the choices; null = the task's own."""

    label: Text | None = None
    """Column with the label; null = the task's own."""

    fold: int = Field(default=0, ge=0, le=4)
    """Which fold to validate on, of benchmarks that are cross-validated."""

    pairs: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}-[a-z]{2}$")], ...] = ()
    """Translation: from which language into which, such as `en-de`; several are trained and tested together."""

    max_length: int = Field(default=128, ge=1)
    """Longest input in tokens; what is longer is cut, or read in windows where answers are looked for."""

    stride: int = Field(default=128, ge=0)
    """Question answering: tokens that two windows of a text have in common."""

    max_answer: int = Field(default=30, ge=1)
    """Question answering: longest answer in tokens."""

    max_target: int = Field(default=128, ge=2)
    """Sequence to sequence: longest output in tokens."""

    beams: int = Field(default=1, ge=1)
    """Sequence to sequence: width of the beam in evaluation; 1 = greedy."""

    masked: float = Field(default=0.15, gt=0, lt=1)
    """Masked language modelling: fraction of the tokens that are to be guessed."""

    copies: int = Field(default=1, ge=1)
    """Masked language modelling: how often the training text is taken, each time with other tokens masked."""

    max_train: int | None = Field(default=None, ge=1)
    """Train on so many examples only, spread evenly over all; null = on all."""

    max_validation: int | None = Field(default=None, ge=1)
    """Evaluate on so many examples only, spread likewise; null = on all."""

    @field_validator("config")
    @classmethod
    def _config_needs_dataset(cls, config: str | None, info: ValidationInfo) -> str | None:
        if config is not None and info.data.get("dataset", "") is None:
            raise ValueError("a configuration belongs to a data set: give task.dataset too, or leave it out")
        return config

    @field_validator("folder")
    @classmethod
    def _hub_or_folder(cls, folder: str | None, info: ValidationInfo) -> str | None:
        if folder is not None and info.data.get("dataset") is not None:
            raise ValueError("data come from the hub or from a folder: leave out task.dataset or this")
        return folder

    @field_validator("train", "validation")
    @classmethod
    def _hub_or_files(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None and info.data.get("dataset") is not None:
            raise ValueError("data come from the hub or from files: leave out task.dataset or this file")
        return file


class Optimizer(Section):
    """The optimizer that DeepSpeed makes."""

    type: Text = "AdamW"
    """Its name in a DeepSpeed config."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay; biases and norms have none."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the two moments."""

    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""


class Distillation(Section):
    """Learn from a teacher: loss (1 - h) * task + h * T^2 * KL(teacher_T || student_T)."""

    teacher: Text
    """Folder of the teacher, a Hugging Face model that was trained for the task, or its name on the hub."""

    store: Text | None = None
    """Folder with the teacher's outputs, made when it is not there; null = run the teacher at every step."""

    hardness: Annotated[Ramp, AfterValidator(within(0, 1))] = Ramp(first=1.0, final=1.0)
    """h: weight of the teacher's part of the loss, 0 to 1; a number, or a line between two."""

    temperature: Annotated[Ramp, AfterValidator(within(0, math.inf, above=True))] = Ramp(first=2.0, final=2.0)
    """T: both outputs are divided by it before the softmax; a number, or a line between two."""

    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of the store."""

    k: int = Field(default=64, ge=1)
    """Kind `topk`: how many of the largest outputs are stored."""

    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Kind `topk`: temperatures that the store is good for, besides `temperature`."""

    kind: Literal["auto", "full", "topk", "hidden"] = "auto"
    """What is stored: all outputs, the largest, or the last hidden states; auto = the smallest that will do."""

    @property
    def stored_temperatures(self) -> tuple[float, ...]:
        """What kind `topk` can be read at; none when the temperature changes, since it would know the ends only."""
        constant = {self.temperature.first} if self.temperature.is_constant else set()
        return tuple(sorted(constant | set(self.temperatures))) if constant else ()

    @field_validator("kind")
    @classmethod
    def _readable(cls, kind: str, info: ValidationInfo) -> str:
        temperature = info.data.get("temperature")
        if kind == "topk" and temperature is not None and not temperature.is_constant:
            raise ValueError("topk knows single temperatures only, and this one changes: use full or hidden")
        return kind


class Checkpoints(Section):
    """When the run is saved, so that it can go on, and what is kept of it."""

    every: Span = Span(1.0, "epochs")
    """Distance between two checkpoints; there is one at the end always, and one when a run is stopped."""

    keep: int = Field(default=2, ge=1)
    """How many of the newest are kept. One more is on disk while the next is written."""

    best: bool = False
    """Keep the one with the best validation metric too, of those evaluations that were at the target sparsity."""

    margin: float = Field(default=120.0, ge=0)
    """Seconds before the end of a Slurm job at which the run stops, with a checkpoint."""

    @field_validator("every")
    @classmethod
    def _more_than_nothing(cls, every: Span) -> Span:
        if every.amount == 0:
            raise ValueError("must be longer than nothing")
        return every


class Tracking(Section):
    """What is logged, how often, and to whom."""

    wandb: bool = False
    """Log to Weights & Biases too; `metrics.jsonl` is always written."""

    project: Text = "dsprune"
    """Project at Weights & Biases."""

    group: Text | None = None
    """Group of runs that belong together, such as the seeds of one setting."""

    tags: tuple[Text, ...] = ()
    """Tags of the run."""

    run: Text | None = None
    """Name of the run; null = the recipe's name."""

    log_model: bool = False
    """Send the finished model to Weights & Biases, as an artifact."""

    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of training metrics."""

    eval_every: Span = Span(1.0, "epochs")
    """Distance between two evaluations on the validation data."""

    @field_validator("eval_every")
    @classmethod
    def _more_than_nothing(cls, eval_every: Span) -> Span:
        if eval_every.amount == 0:
            raise ValueError("must be longer than nothing")
        return eval_every
