"""Check everything that training would refuse, before ranks are joined and extensions compiled."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dsprune.distillation.capture.build_store import find_matching_store
from dsprune.distillation.capture.forward import Source
from dsprune.distillation.matching import open_matching_store
from dsprune.errors import UserError
from dsprune.model.fit import Changes, changing, keep_layers, padding_remarks
from dsprune.model.patterns import parameter_groups
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.model.prunable import Choice
from dsprune.model.skeleton import without_weights
from dsprune.model.vocabulary import Vocabulary, embedding_of
from dsprune.ranks.batch_order import BatchPlan
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Distillation, Recipe
from dsprune.recipe import Model as ModelSettings
from dsprune.schedule import Timetable, recipe_timetable
from dsprune.selection.weights import weights_to_prune
from dsprune.tasks.build import build_task
from dsprune.tasks.examples import tokens_in
from dsprune.tasks.remarks import Examples, remarks_on, remarks_on_both
from dsprune.tasks.task import Task
from dsprune.utils.wandb_key import has_wandb_key, wandb_host
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.keys import setting

__all__ = ["Prepared", "preflight", "recipe_weights", "start_model"]


@dataclass(frozen=True)
class Prepared:
    """The parts of a training run that need neither other ranks nor weights.

    Attributes:
        path: folder or hub name of the model.
        config: the resolved ds_config.
        tokenizer: encodes for the model.
        task: encodes, predicts and scores examples.
        data: encoded training examples.
        validation: encoded validation examples.
        plan: the order of the training examples.
        timetable: the mask updates and the learning rate.
        model: the model to train, on the meta device.
        weights: the weights to prune; empty without pruning.
        vocabulary: the embedding rows to train; None for all.
        source: the input of the teacher logits store; None without a store.
    """

    path: str
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    task: Task
    data: Dataset
    validation: Dataset
    plan: BatchPlan
    timetable: Timetable
    model: PreTrainedModel
    weights: Choice
    vocabulary: Vocabulary | None
    source: Source | None

    def remarks(self) -> Iterator[str]:
        """Yield one line for each unusual property of model and data that training accepts."""
        yield from padding_remarks(self.path, load_config(self.path), self.tokenizer)
        train = Examples(self.task, "train", self.data)
        validation = Examples(self.task, "validation", self.validation)
        yield from remarks_on(train, self.tokenizer)
        yield from remarks_on(validation, self.tokenizer)
        yield from remarks_on_both(train, validation)


def preflight(recipe: Recipe, ranks: Ranks) -> Prepared:
    """Check and prepare everything that needs neither other ranks nor weights.

    Not collective: `ranks` need not be joined, and every rank checks everything.

    Raises:
        UserError: the recipe, its data, its model, its teacher and its ds_config do not fit together.
    """
    if recipe.model is None or recipe.task is None:
        raise recipe.lacks("training", "model", "task")
    config = resolve_ds_config(load_ds_config(recipe.deepspeed), recipe, ranks.world_size)
    _check_monitor(config)
    tokenizer = load_tokenizer(recipe.model.tokenizer_path)
    task = build_task(recipe.task).for_tokenizer(tokenizer)
    with without_weights():
        model = start_model(task, recipe.model, tokenizer)
    weights = recipe_weights(recipe, model)
    parameter_groups(model, setting(config, "optimizer.params.lr"), recipe.learning_rate.scale)
    if recipe.distillation is not None and not recipe.distillation.has_store:
        with without_weights():
            task.build_model(recipe.distillation.teacher, tokenizer, new_head=False)
    data, validation = task.prepare("train", tokenizer), task.prepare("validation", tokenizer)
    vocabulary = None
    if recipe.model.vocabulary == "used":
        vocabulary = Vocabulary.used(model, tokenizer, map(tokens_in, (data, validation)))
        _check_not_pruned(model, weights)
        vocabulary.shorten(model)
    batch, micro_batch = config["train_batch_size"], config["train_micro_batch_size_per_gpu"]
    plan = BatchPlan(len(data), batch, micro_batch, ranks.world_size, recipe.seed)
    timetable = recipe_timetable(recipe, plan.steps_per_epoch)
    source = None
    if recipe.distillation is not None and recipe.distillation.store:
        source = Source.of(recipe.distillation.teacher, task, tokenizer, data)
        _check_store(recipe.distillation, source)
    return Prepared(
        recipe.model.path,
        config,
        tokenizer,
        task,
        data,
        validation,
        plan,
        timetable,
        model,
        weights,
        vocabulary,
        source,
    )


def recipe_weights(recipe: Recipe, model: nn.Module) -> Choice:
    """Return the weights of a model that the recipe prunes."""
    return Choice((), (), (), 0) if recipe.pruning is None else weights_to_prune(model, recipe.pruning)


def _check_not_pruned(model: PreTrainedModel, weights: Choice) -> None:
    name = f"{embedding_of(model)[0]}.weight"
    if name in {tensor.name for tensor in weights.tensors}:
        raise UserError(
            f"model.vocabulary: value used: leaves out rows of {name}, which the recipe prunes: use only one of the two"
        )


def _check_store(settings: Distillation, source: Source) -> None:
    """Check that a complete or partial store matches, without reading all of it."""
    folder = Path(str(settings.store))
    if settings.has_store:
        open_matching_store(folder, settings, source, torch.device("cpu"), verify=False)
    else:
        find_matching_store(folder, settings, source.origin | {"dataset": source.dataset})


def start_model(task: Task, settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return the initial model of a run: opened for the task, and changed by the recipe.

    Raises:
        UserError: the model cannot be opened, does not fit the task, or cannot be changed.
    """
    with changing(Changes(settings.new_head, settings.resize_embeddings)):
        return keep_layers(task.build_model(settings.path, tokenizer), settings.layers)


def _check_monitor(config: dict[str, Any]) -> None:
    """Check that DeepSpeed's monitor can log in, because otherwise it ends the run."""
    is_on = setting(config, "wandb.enabled") is True
    if is_on and os.environ.get("WANDB_MODE", "online") in ("online", "") and not has_wandb_key():
        raise UserError(
            f"ds_config: wandb.enabled: no key for {wandb_host()}: run `wandb login`, set WANDB_MODE=offline, or "
            f"set tracking.wandb=true in place of the section, which needs no key"
        )
