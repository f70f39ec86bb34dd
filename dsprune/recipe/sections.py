"""Sections of the recipe: model, optimizer, distillation, checkpoints and tracking.

The literal under each field is its documentation and its description in the JSON schema.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from dsprune.recipe.section import LARGEST, Count, Place, Positive, Section, Text
from dsprune.recipe.span import PositiveSpan, Ramp, Span, within
from dsprune.recipe.timing import Start

__all__ = ["STORE_MANIFEST", "Checkpoints", "Distillation", "Model", "Optimizer", "Tracking"]

STORE_MANIFEST = "store.json"


class Model(Section):
    """The model to start from."""

    path: Place
    """Folder of a Hugging Face model, or its name on the hub."""

    tokenizer: Place | None = None
    """Folder or hub name of the tokenizer. Default: null = the tokenizer of the model."""

    layers: tuple[Annotated[int, Field(ge=0, le=LARGEST)], ...] | None = None
    """Layers to keep, counted from 0; the others are removed at the start. Default: null = all layers."""

    vocabulary: Literal["all", "used"] = "all"
    """Embedding rows to train: all, or those of the tokens that occur in the task's data (`used`), which saves their
    memory and changes no loss. The saved model has all rows. Default: `all`."""

    start: Start | None = None
    """Whether the model is already fine-tuned for the task, which the schedule law depends on. Default: null =
    `fine-tuned` if the model is its own teacher, else `pretrained`."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] | None = None
    """Dropout probability of the whole model during training, or the model's own ones (`model`). Default: null = what
    the schedule law gives: 0 in a run that prunes or is distilled, else the model's own."""

    @field_validator("dropout", mode="before")
    @classmethod
    def _probability_or_own(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in (None, "model") and not (is_number and 0 <= value < 1):
            raise ValueError("must be a number from 0 on and below 1, or `model` for the model's own")
        return value

    new_head: bool = False
    """Replace the model's head by a new one, for example to go from three labels to two. Default: false = a new head
    only where the model has none."""

    resize_embeddings: bool = False
    """Add embeddings for tokens that were added to the tokenizer. Default: false = refuse such a tokenizer."""

    @property
    def tokenizer_path(self) -> str:
        """Folder or hub name of the tokenizer to load."""
        return self.tokenizer or self.path


class Optimizer(Section):
    """The optimizer that DeepSpeed creates."""

    type: Text = "AdamW"
    """Name of the optimizer in a DeepSpeed config. Default: `AdamW`."""

    weight_decay: float = Field(default=0.01, ge=0, le=100)
    """Weight decay. Default: 0.01."""

    decayed: Literal["matrices", "all"] = "matrices"
    """Which parameters have weight decay: all but biases and norms (`matrices`), or `all`. Default: `matrices`."""

    decoupled: bool | None = None
    """Type `Adam`: decay the weights (true, AdamW), or add to the gradient (false, L2). Default: null = true."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment. Default: 0.9 and 0.999."""

    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the square root of the second moment. Default: 1e-8."""


class Distillation(Section):
    """Learn from a teacher with the loss (1 - h) * task + h * T^2 * KL(teacher_T || student_T)."""

    teacher: Place
    """The teacher, a Hugging Face model that was trained for the task: its folder or its name on the hub."""

    store: Place | None = None
    """Folder of the teacher logits store, which is created if it is missing. Default: null = run the teacher at
    every step."""

    hardness: Annotated[Ramp, AfterValidator(within(1))] = Ramp(first=1.0, final=1.0)
    """h: weight of the distillation loss, 0 to 1; a number, or a line between two. Default: 1.0."""

    temperature: Annotated[Ramp, AfterValidator(within(LARGEST, above_zero=True))] = Ramp(
        first=1.0, final=1.0
    )
    """T: divides the logits of teacher and student before the softmax; a number, or a line between two. Default: what
    `model.start` gives, 1.0 for a pretrained model and 2.0 for a fine-tuned one."""

    dtype: Literal["fp16", "bf16", "fp32", "packed"] = "fp16"
    """Number format of the store; `packed`, for kind `topk` only, takes half the bytes of `fp16`. Default: `fp16`;
    kind `auto` also compares `packed`."""

    k: Count = 64
    """Kind `topk`: number of largest logits that are stored per row. Default: 64."""

    temperatures: tuple[Positive, ...] = ()
    """Kind `topk`: temperatures that the store supports, in addition to `temperature`. Default: none."""

    kind: Literal["auto", "full", "topk", "hidden"] = "auto"
    """What is stored: all logits (full), the largest ones (topk) or the last hidden states (hidden). Default:
    `auto` = the smallest of them whose KL divergence from the teacher is at most 0.001 nats."""

    @property
    def has_store(self) -> bool:
        """Whether the store exists and is complete: its manifest is written last."""
        return self.store is not None and Path(self.store, STORE_MANIFEST).exists()

    @property
    def stored_temperatures(self) -> tuple[float, ...]:
        """Temperatures at which kind `topk` can be read; none if the temperature changes during the run."""
        constant = {self.temperature.first} if self.temperature.is_constant else set()
        return tuple(sorted(constant | set(self.temperatures))) if constant else ()

    @model_validator(mode="after")
    def _packed_needs_topk(self) -> Self:
        if self.dtype == "packed" and self.kind != "topk":
            raise ValueError(
                f"dtype packed is a form of kind topk, and kind is {self.kind}: set kind: topk, or fp16"
            )
        return self

    @field_validator("kind")
    @classmethod
    def _topk_needs_constant_temperature(cls, kind: str, info: ValidationInfo) -> str:
        temperature = info.data.get("temperature")
        if kind == "topk" and temperature is not None and not temperature.is_constant:
            raise ValueError(
                "topk supports single temperatures only, and this temperature changes: use full or hidden"
            )
        return kind


class Checkpoints(Section):
    """When checkpoints are saved, and which are kept."""

    every: PositiveSpan = Span(1.0, "epochs")
    """Distance between two checkpoints. The run also saves one at its end and when it is stopped. Default:
    `1 epochs`."""

    keep: Count = 2
    """Number of newest checkpoints to keep. One more is on disk while the next is written. Default: 2."""

    best: bool = False
    """Also keep the checkpoint with the best validation metric among evaluations at the target sparsity. Default:
    false."""

    margin: float = Field(default=120.0, ge=0, le=LARGEST)
    """Seconds before the end of a Slurm job at which the run saves a checkpoint and stops. Default: 120."""


class Tracking(Section):
    """What is logged where, and how often the model is evaluated."""

    wandb: bool = False
    """Also log to Weights & Biases; `metrics.jsonl` is always written. Default: false."""

    project: Text = "dsprune"
    """Weights & Biases: the project. Default: `dsprune`."""

    group: Text | None = None
    """Group of runs that belong together, such as the seeds of one setting. Default: null = no group."""

    tags: tuple[Text, ...] = ()
    """Tags of the run. Default: none."""

    run: Text | None = None
    """Weights & Biases: the name of the run. Default: null = the recipe's name."""

    log_model: bool = False
    """Weights & Biases: upload the finished model as an artifact. Default: false."""

    log_every: Count = 10
    """Optimizer steps between two records of training metrics. Default: 10."""

    eval_every: PositiveSpan = Span(1.0, "epochs")
    """Distance between two evaluations on the validation data. Default: `1 epochs`."""
