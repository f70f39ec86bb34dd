"""The objective of training with a teacher: task loss and distillation loss, weighted by the hardness.

`dsprune.DistillationLoss` computes it in a user's own loop, and in transformers' Trainer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dsprune.distillation.capture.forward import origin_of_data
from dsprune.distillation.loss import distillation_loss, example_weights
from dsprune.distillation.matching import check_fit
from dsprune.distillation.store import fingerprints, open_store
from dsprune.distillation.teachers import MicroBatch, StoredTeacher, Teacher
from dsprune.errors import UserError
from dsprune.model.fingerprints import teacher_fingerprint
from dsprune.ranks.group import select_device
from dsprune.ranks.ranks import expected_ranks
from dsprune.recipe import AnyRecipe, Distillation, as_recipe
from dsprune.schedule import Timetable
from dsprune.tasks.build import build_task
from dsprune.tasks.task import Task

__all__ = ["LOSSES", "DistillationLoss", "DistillationObjective"]

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
            `loss = (1 - h) * task_loss + h * distillation_loss`, and the two parts without the factors; all scalars.
        """
        now = self.at(step)
        signals = self.teacher.signals(micro_batch)
        rows = self.task.logit_rows(outputs, micro_batch.batch)
        for name, part in rows.items():
            if part.logits.dim() != 2:
                raise UserError(
                    f"outputs: {name}: the shape {tuple(part.logits.shape)}, not [rows, classes]: return the logits as "
                    f"the model of the task does"
                )
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


class Progress(Protocol):
    """The step that hardness and temperature follow; a `PruningEngine` has it."""

    timetable: Timetable
    distillation: Distillation | None

    @property
    def applied_steps(self) -> int:
        """Number of applied optimizer steps."""


class DistillationLoss:
    """Computes the loss `(1 - h) * task loss + h * distillation loss` of a collated batch, from a teacher logits store.

    The records are found by the content of the batch, so order, padding and number of ranks may change. The store is
    checked as in `dsprune train`.

    Args:
        store: folder of the store, which `dsprune teacher RECIPE` makes.
        recipe: the same recipe, its values, or the path or name of one; its sections `task` and `distillation` count.
        tokenizer: encodes the examples.
        data: the encoded training examples, to check now that each has a record; None checks each batch instead.

    Raises:
        UserError: the store is damaged or incomplete, was made from another source, or lacks an example.

    Examples:
        >>> distillation = dsprune.DistillationLoss("runs/teacher", "recipe.yaml", tokenizer)  # doctest: +SKIP
        >>> loss = distillation(engine, engine(**batch), batch)  # doctest: +SKIP
    """

    def __init__(
        self,
        store: str | PathLike[str],
        recipe: AnyRecipe,
        tokenizer: PreTrainedTokenizerBase,
        data: datasets.Dataset | None = None,
    ) -> None:
        _check_inputs(store, tokenizer)
        recipe, ranks = as_recipe(recipe), expected_ranks()
        if recipe.task is None or recipe.distillation is None:
            raise recipe.lacks("DistillationLoss", "task", "distillation")
        self._settings, self._folder = recipe.distillation, Path(store)
        self._task = build_task(recipe.task).for_tokenizer(tokenizer)
        origin = origin_of_data(self._task, tokenizer)
        if (weights := teacher_fingerprint(self._settings.teacher)) is not None:
            origin["teacher"] = weights
        self._store = open_store(self._folder, origin, device=select_device(ranks))
        check_fit(self._folder, self._store.manifest.spec, self._settings)
        self._teacher = StoredTeacher(self._store, self._task.collate(tokenizer))
        if data is not None:
            _check_data(data)
            self._fingerprints_of(data, "the training examples")

    def __call__(self, engine: Progress, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a micro-batch: a scalar, the mean over its examples.

        Args:
            engine: the engine that trains, for its step.
            outputs: the student's outputs for the batch, with its task loss.
            batch: the model's inputs and the labels.

        Raises:
            UserError: an example has no record in the store, the outputs have no loss, or the engine is a plain module.
        """
        return self.losses(engine, outputs, batch)["loss"]

    def losses(self, engine: Progress, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of a micro-batch and its two parts.

        Arguments and errors are those of `__call__`.

        Returns:
            `loss`, and `task_loss` and `distillation_loss` without the factors: scalars, each a mean over the examples.
        """
        if not hasattr(engine, "timetable"):
            raise UserError(
                f"engine: a {type(engine).__name__} counts no steps: give the engine that trains; for evaluation, take "
                f"outputs.loss"
            )
        engine.distillation = self._settings
        loss = getattr(outputs, "loss", None)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError(
                f"outputs: no scalar loss in a {type(outputs).__name__}, that of the task: give the model the labels "
                f"of the batch, and return an object with loss and logits"
            )
        blocks = self._store.fetch(self._fingerprints(batch))
        micro_batch = MicroBatch(dict(batch), {name: block.signal for name, block in blocks.items()})
        objective = DistillationObjective(self._teacher, self._task, self._settings, engine.timetable)
        return objective.losses(outputs, micro_batch.to(outputs.loss.device), engine.applied_steps)

    def use_in(self, trainer: Any) -> None:
        """Let a transformers `Trainer` train with this loss; its evaluation keeps the loss of the task.

        The loss of the task is the Trainer's own, with its label smoothing, or that of a subclass.

        Args:
            trainer: the Trainer, before `train()`.

        Raises:
            UserError: the Trainer has a `compute_loss_func`.
        """
        if trainer.compute_loss_func is not None:
            raise UserError(
                f"Trainer: compute_loss_func={getattr(trainer.compute_loss_func, '__name__', '')}: the Trainer does "
                f"not divide its loss by the accumulation steps: override compute_loss in a subclass instead"
            )
        of_task = trainer.compute_loss

        def compute_loss(
            model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False, **kwargs: Any
        ) -> Any:
            if not model.training:
                return of_task(model, inputs, return_outputs=return_outputs, **kwargs)
            of_trainer, outputs = of_task(model, dict(inputs), return_outputs=True)
            if hasattr(outputs, "loss"):
                outputs.loss = of_trainer
            loss = self(model, outputs, inputs)  # type: ignore[arg-type]  # the Trainer's model is the engine
            return (loss, outputs) if return_outputs else loss

        trainer.compute_loss = compute_loss
        # The loss is a mean, so the Trainer must divide it by the accumulation steps.
        trainer.model_accepts_loss_kwargs = False

    def _fingerprints(self, batch: Mapping[str, Tensor]) -> np.ndarray:
        _check_batch(batch)
        columns = {name: tensor.tolist() for name, tensor in batch.items()}
        return self._fingerprints_of(datasets.Dataset.from_dict(columns), "the batch")

    def _fingerprints_of(self, data: datasets.Dataset, what: str) -> np.ndarray:
        """Return the fingerprint of each example, after a check that each has a record."""
        columns = self._task.samples(data)
        samples = fingerprints(columns)
        if missing := self._store.missing(samples):
            raise UserError(
                f"{self._folder}: {len(missing):,} of {len(samples):,} have no record, the first is number "
                f"{missing[0] + 1} of {what}, by its {', '.join(columns)}: encode as the task of the recipe does, or "
                f"make a store for these data"
            )
        return samples


def _check_inputs(store: Any, tokenizer: Any) -> None:
    """Check the types of the store's folder and of the tokenizer."""
    if not isinstance(store, str | PathLike):
        raise UserError(f"store: a {type(store).__name__}: give the folder that `dsprune teacher` wrote")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"tokenizer: a {type(tokenizer).__name__}: give the tokenizer that encodes the examples, such as "
            f"AutoTokenizer.from_pretrained(...)"
        )


def _check_data(data: datasets.Dataset) -> None:
    """Check the type of encoded training examples."""
    if not isinstance(data, datasets.Dataset):
        raise UserError(
            f"data: a {type(data).__name__}, not a datasets.Dataset: leave it out to check each batch instead"
        )
    if texts := [
        name for name, feature in data.features.items() if getattr(feature, "dtype", "") == "string"
    ]:
        raise UserError(f"data: {texts[0]}: a column of texts: encode the examples, and leave it out")


def _check_batch(batch: Mapping[str, Tensor]) -> None:
    """Check that each field of a batch has a row for each example."""
    size = max((len(value) for value in batch.values() if _has_rows(value)), default=0)
    for name, value in batch.items():
        if not _has_rows(value) or len(value) != size:
            found = (
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            )
            raise UserError(
                f"batch: {name}: {found}, not a tensor with a row for each example: leave it out, or convert it"
            )


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) > 0
