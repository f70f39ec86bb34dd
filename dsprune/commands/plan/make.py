"""Plan a recipe without running it: its timetable, and the sizes of its model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dsprune.checkpoint.sparse_start import check_first_masks, read_first_masks
from dsprune.errors import UserError
from dsprune.masks.manifest import MANIFEST
from dsprune.model.fit import keep_layers
from dsprune.model.pretrained import load_config
from dsprune.model.prunable import DenseMatrix
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.model.vocabulary import Vocabulary, num_missing
from dsprune.ranks.batch_order import BatchPlan
from dsprune.ranks.collectives import Comm
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Model, Pruning, Recipe, Task
from dsprune.schedule import MaskUpdate, Timetable, recipe_timetable
from dsprune.selection.groups import Group, update_groups
from dsprune.tasks.build import build_task
from dsprune.train.preflight import Prepared, preflight, recipe_weights
from dsprune.utils.text import first_line
from dsprune.zero.config import load_ds_config, resolve_ds_config
from dsprune.zero.keys import num_moments

__all__ = ["Plan", "make_plan", "weightless_model"]


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe.

    Attributes:
        recipe: the recipe.
        model_path: folder or hub name of the model.
        timetable: its mask updates and learning rate.
        num_examples: size of the training data; None if unknown, which a recipe in steps allows.
        num_weights: number of all weights of the model.
        tensors: the prunable tensors; empty without pruning.
        dense: the other matrices and parameters inside the blocks; empty without pruning.
        vocabulary: the tokens whose embedding rows are trained; None = all.
        num_missing: number of weights of the other rows.
        num_moments: number of the optimizer's moments of each weight.
        targets: description of the labels, such as the classes; empty if unknown.
        remarks: remarks on the data and on the plan, one line each.
    """

    recipe: Recipe
    model_path: str
    timetable: Timetable
    num_examples: int | None
    num_weights: int
    tensors: tuple[PrunableTensor, ...]
    dense: tuple[DenseMatrix, ...]
    vocabulary: Vocabulary | None = None
    num_missing: int = 0
    num_moments: int = 2
    targets: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights."""
        return sum(tensor.numel for tensor in self.tensors)

    def groups(self, update: MaskUpdate) -> list[Group]:
        """Return the groups of a mask update, with their numbers of pruned weights."""
        pruning = self.recipe.pruning
        assert pruning is not None, "without pruning there are no mask updates"
        return update_groups(self.tensors, pruning, self.timetable.progress(update))

    def num_pruned(self, update: MaskUpdate) -> int:
        """Return the number of zeros after a mask update."""
        return sum(group.num_pruned for group in self.groups(update))


def make_plan(recipe: Recipe, world_size: int, train_examples: int | None = None) -> Plan:
    """Plan a recipe, and check everything that training would refuse.

    With `train_examples`, without a task, or with data on the hub, the plan uses only the model's config, and prints
    what has not been checked.

    Raises:
        UserError: the parts of the recipe do not fit together, or epochs cannot be counted.
    """
    if recipe.model is None:
        raise UserError(
            "model.path: value missing: a plan needs the folder or hub name of a model (its config only)"
        )
    reason = _why_unchecked(recipe.task, train_examples)
    if reason is not None:
        return _sketch(recipe, recipe.model, world_size, train_examples, reason)
    prepared = preflight(recipe, Ranks(0, 0, world_size))
    first = _first_sparsity(prepared, recipe.pruning)
    start = [] if first is None else [f"{prepared.path} has masks: starts at sparsity {first:.4f}"]
    return Plan(
        recipe=recipe,
        model_path=recipe.model.path,
        timetable=prepared.timetable,
        num_examples=len(prepared.data),
        num_weights=count_weights(prepared.model),
        tensors=prepared.weights.tensors,
        dense=(*prepared.weights.dense, *prepared.weights.outside),
        vocabulary=prepared.vocabulary,
        num_missing=num_missing(prepared.model),
        num_moments=num_moments(prepared.config),
        targets=prepared.task.targets(prepared.data),
        remarks=(*prepared.remarks(), *start),
    )


def _first_sparsity(prepared: Prepared, pruning: Pruning | None) -> float | None:
    """Return the sparsity of the prunable weights by the masks in the model's folder; None if there are none.

    Raises:
        UserError: a run of the recipe cannot start from these masks.
    """
    folder, tensors = Path(prepared.path), prepared.weights.tensors
    if pruning is None or not (folder / MANIFEST).is_file():
        return None
    masks = read_first_masks(folder, [Shard(tensor, 0, tensor.numel) for tensor in tensors])
    check_first_masks(masks, pruning, prepared.timetable, Comm(), str(folder))
    return sum(masks.num_pruned()) / sum(tensor.numel for tensor in tensors)


def _why_unchecked(settings: Task | None, train_examples: int | None) -> str | None:
    """Return why the data are not read; None if they are."""
    if train_examples is not None:
        return "--train-examples is given"
    if settings is None:
        return "the recipe has no task"
    is_local = settings.folder or (settings.train and settings.validation)
    is_on_hub = settings.dataset is not None or bool(build_task(settings).benchmarks)
    return "they must be downloaded first" if is_on_hub and not is_local else None


def _sketch(recipe: Recipe, model: Model, world_size: int, num_examples: int | None, reason: str) -> Plan:
    """Plan a recipe from the config of its model."""
    remarks = [f"not checked: data, labels, tokenizer, weights and store, because {reason}"]
    if num_examples is None and (num_examples := _published_size(recipe.task)) is not None:
        remarks.append(f"counted with {num_examples:,} training examples, the published number")
    steps_per_epoch = None
    if num_examples is not None:
        num_examples = min(num_examples, (recipe.task and recipe.task.max_train) or num_examples)
        steps_per_epoch = _steps_per_epoch(recipe, world_size, num_examples)
    timetable = recipe_timetable(recipe, steps_per_epoch)
    config = resolve_ds_config(load_ds_config(recipe.deepspeed), recipe, world_size)
    teacher = None if recipe.distillation is None else recipe.distillation.teacher
    # A teacher in the output folder is made by a run.
    if teacher is not None and not Path(teacher).is_relative_to(recipe.output):
        load_config(teacher)
    skeleton = weightless_model(model, recipe.task)
    weights = recipe_weights(recipe, skeleton)
    if model.vocabulary == "used":
        remarks.append("counted with all embedding rows: the used ones are not known")
    return Plan(
        recipe=recipe,
        model_path=model.path,
        timetable=timetable,
        num_examples=num_examples,
        num_weights=count_weights(skeleton),
        tensors=weights.tensors,
        dense=(*weights.dense, *weights.outside),
        num_moments=num_moments(config),
        remarks=tuple(remarks),
    )


def _published_size(settings: Task | None) -> int | None:
    """Return the number of training examples of published data; None for other data, or if it is unknown."""
    if settings is None or settings.train or settings.dataset:
        return None
    sizes = [benchmark.parts["train"].examples for benchmark in build_task(settings).benchmarks]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def count_weights(model: nn.Module) -> int:
    """Return the number of all weights of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def _steps_per_epoch(recipe: Recipe, world_size: int, num_examples: int) -> int:
    budget = recipe.budget
    micro_batch = budget.micro_batch or max(1, budget.batch // world_size)
    return BatchPlan(num_examples, budget.batch, micro_batch, world_size, recipe.seed).steps_per_epoch


def weightless_model(model: Model, task: Task | None) -> nn.Module:
    """Return the model with the task's head (a classifier without a task) on the meta device."""
    config = load_config(model.path)
    settings = task or Task(name="text-classification")
    try:
        with torch.device("meta"):
            return keep_layers(build_task(settings).new_model(config), model.layers)
    except ValueError as error:
        reason = first_line(error)
        raise UserError(
            f"model {model.path!r}: {reason} Choose another for the task {settings.name}"
        ) from error
