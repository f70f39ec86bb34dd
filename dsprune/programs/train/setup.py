"""All that a training run is made of, put together and checked before its first step."""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from dsprune.distributed.data import BatchPlan, TrainSampler
from dsprune.distributed.ranks import Ranks
from dsprune.engine.dsconfig import load_ds_config, resolve_ds_config
from dsprune.engine.engine import PruningEngine, initialize
from dsprune.errors import UserError
from dsprune.pure.recipe import Recipe
from dsprune.tasks.pretrained import load_tokenizer
from dsprune.tasks.registry import build_task
from dsprune.tasks.task import Batch, Collate, Task

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True)
class Parts:
    """What the training loop works with.

    Attributes:
        task: how examples are encoded, predicted and scored.
        tokenizer: saved with the model.
        data: encoded training examples.
        validation: encoded validation examples.
        plan: the order of the examples.
        collate: makes micro-batches.
        engine: the wrapped DeepSpeed engine.
        teacher: a model to imitate, or None.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    data: Dataset
    validation: Dataset
    plan: BatchPlan
    collate: Collate
    engine: PruningEngine
    teacher: nn.Module | None

    def micro_batches(self, rank: int) -> Iterator[Batch]:
        """A rank's micro-batches from the engine's position in the data on, without end.

        A step that is skipped on overflow has used up its examples.
        """
        start, lengths = self.engine.global_steps, self.data["length"][:]
        sampler = TrainSampler(self.plan, lengths, rank, start=start, stop=sys.maxsize)
        return iter(DataLoader(self.data, batch_sampler=sampler, collate_fn=self.collate))


def assemble(recipe: Recipe, ranks: Ranks) -> Parts:
    """Build everything, the cheap and breakable first. Collective: every rank must call this.

    Raises:
        UserError: the recipe, its data and its ds_config do not go together.
    """
    if recipe.model is None or recipe.task is None:
        raise UserError(f"recipe {recipe.name!r}: training needs the sections model and task: add them")
    config = resolve_ds_config(load_ds_config(recipe.deepspeed), recipe, ranks.world_size)
    task = build_task(recipe.task)
    tokenizer = load_tokenizer(recipe.model.tokenizer or recipe.model.path)
    data, validation = task.prepare("train", tokenizer), task.prepare("validation", tokenizer)
    batch, micro_batch = config["train_batch_size"], config["train_micro_batch_size_per_gpu"]
    plan = BatchPlan(len(data), batch, micro_batch, ranks.world_size, recipe.seed)
    _seed(recipe.seed, ranks.rank)
    model = task.build_model(recipe.model.path, tokenizer)
    teacher = None
    if recipe.distillation is not None:
        teacher = task.build_model(recipe.distillation.teacher, tokenizer, new_head=False)
        teacher.eval().requires_grad_(False)
    engine, *_ = initialize(model=model, config=config, recipe=recipe, steps_per_epoch=plan.steps_per_epoch)
    if teacher is not None:
        teacher.to(engine.device)
    collate = task.collate(tokenizer, pad_to_multiple_of=None if recipe.precision == "fp32" else 8)
    return Parts(task, tokenizer, data, validation, plan, collate, engine, teacher)


def _seed(seed: int, rank: int) -> None:
    """Each rank draws its own dropout. New weights differ too, until DeepSpeed broadcasts those of rank 0."""
    random.seed(seed + rank)
    np.random.seed(seed + rank)
    torch.manual_seed(seed + rank)
