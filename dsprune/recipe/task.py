"""The section `task` of the recipe: the task of the model, and the data.

The literal under each field is its documentation and its description in the JSON schema.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from dsprune.recipe.section import LARGEST, Count, Named, Place, Section, Text
from dsprune.registry import TASKS

__all__ = ["Task"]


class Task(Section):
    """What the model is trained to do, and on which data."""

    name: Annotated[Text, Named(TASKS)]
    """Name of the task: a benchmark such as `sst2`, or a general kind such as `text-classification`."""

    dataset: Text | None = None
    """Name of the dataset on the hub. Default: null = the task's own dataset, or the local data given below."""

    config: Text | None = None
    """Configuration of `dataset`, if it has several. Default: null = the dataset's default configuration."""

    folder: Place | None = None
    """Local folder with the benchmark's data as published by its authors; `dsprune data TASK` lists its content.
    Default: null = no folder."""

    train: Place | None = None
    """Local file with the training examples: csv, tsv, jsonl, parquet or the format that the task is published
    in. Default: null = the training split of `folder` or of the dataset."""

    validation: Place | None = None
    """Local file with the validation examples, in the same formats. Default: null = the validation split of
    `folder` or of the dataset."""

    text: Text | None = None
    """Column with the text. Default: null = the task's own column."""

    text_pair: Text | None = None
    """Column with the second text in tasks on text pairs, or with the choices in multiple choice. Default: null =
    the task's own column."""

    label: Text | None = None
    """Column with the label. Default: null = the task's own column."""

    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    """WinoGrande: cross-entropy of a multiple choice; or a margin between the scores of the options (`margin`), the
    mean log probabilities of their tokens in a masked language model: -q + alpha * max(0, c - q + beta) for the right
    option's score q and the other's c. Default: `cross-entropy`."""

    alpha: float = Field(default=5.0, ge=0, le=LARGEST)
    """WinoGrande with the loss `margin`: weight of the margin. Default: 5.0."""

    beta: float = Field(default=0.4, ge=0, le=LARGEST)
    """WinoGrande with the loss `margin`: width of the margin. Default: 0.4."""

    separators: Literal["tokenizer", "one"] = "tokenizer"
    """Multiple choice: what separates the two texts: what the tokenizer puts between two texts, which is two separators
    with RoBERTa, or one separator. Default: `tokenizer`."""

    thresholds: tuple[Annotated[float, Field(ge=-LARGEST, le=LARGEST)], ...] = ()
    """Meltome: bounds in degrees Celsius between classes; the task is then classification. Default: none = regression
    of the melting temperature."""

    head: Literal["model", "mean"] = "model"
    """Texts: the model's own head, or with ESM two layers on the mean of all tokens (`mean`). Default: `model`."""

    decoder: Literal["transformer", "gts", "graph2tree"] = "transformer"
    """Equations: what generates the equation: two transformer layers; or, as in SMC-Bench, the tree decoder of GTS over
    an LSTM (`gts`), or over an LSTM and a graph encoder (`graph2tree`), which reads a column `group_nums`. Default:
    `transformer`."""

    decoder_size: Count | None = None
    """Equations with the decoders `gts` and `graph2tree`: width of their layers. Default: null = 512 with `gts`, 384
    with `graph2tree`."""

    fold: int = Field(default=0, ge=0, le=4)
    """Cross-validated benchmarks: the fold to validate on. Default: 0."""

    pairs: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}-[a-z]{2}$")], ...] = ()
    """Translation: source and target language, such as `en-de`. Several pairs are trained and evaluated together.
    Default: none."""

    max_length: Count = 128
    """Longest input in tokens. Longer inputs are truncated; in question answering and language modeling they are
    split. Default: 128."""

    stride: int = Field(default=128, ge=0, le=LARGEST)
    """Question answering: tokens that two consecutive windows of a text share. Default: 128."""

    max_answer: Count = 30
    """Question answering: longest answer in tokens. Default: 30."""

    max_target: int = Field(default=128, ge=2, le=LARGEST)
    """Sequence to sequence: longest output in tokens. Default: 128."""

    beams: int = Field(default=1, ge=1, le=1000)
    """Sequence to sequence: width of the beam search in evaluation. Default: 1 = greedy decoding."""

    masked: float = Field(default=0.15, gt=0, lt=1)
    """Masked language modeling: fraction of the tokens that the model predicts. Default: 0.15."""

    copies: int = Field(default=1, ge=1, le=1000)
    """Masked language modeling: number of copies of the training text, each with other tokens masked. Default: 1."""

    max_train: Count | None = None
    """Number of training examples to use, spread evenly over all. Default: null = all examples."""

    max_validation: Count | None = None
    """Number of validation examples to use, spread evenly over all. Default: null = all examples."""

    @field_validator("config")
    @classmethod
    def _config_needs_dataset(cls, config: str | None, info: ValidationInfo) -> str | None:
        if config is not None and info.data.get("dataset", "") is None:
            raise ValueError("a configuration belongs to a dataset: give task.dataset too, or leave it out")
        return config

    @field_validator("folder", "train", "validation")
    @classmethod
    def _hub_or_local(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None and info.data.get("dataset") is not None:
            raise ValueError("data come from the hub or are local: leave out task.dataset or this")
        return path

    @field_validator("thresholds")
    @classmethod
    def _thresholds_rise(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if list(thresholds) != sorted(set(thresholds)):
            raise ValueError("must rise from one to the next")
        return thresholds
