"""A short training with fixed masks, to measure the loss after the other weights have adapted."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from dsprune.model.fit import set_dropout
from dsprune.model.patterns import parameter_groups
from dsprune.ranks.batch_order import BatchPlan, TrainSampler
from dsprune.ranks.collectives import all_reduce_
from dsprune.ranks.group import current_ranks
from dsprune.recipe import Recipe
from dsprune.tasks.examples import Collate, on_device

__all__ = ["DEFAULT_PEAK", "Recovery"]

DEFAULT_PEAK = 5e-5
"""Learning rate of a recipe without one."""


@dataclass(frozen=True)
class Recovery:
    """The first steps of the recipe's training; the learning rate decays linearly to 0.

    Attributes:
        recipe: the recipe with batch, optimizer, learning rate and seed.
        steps: number of steps.
        data: encoded training examples.
        collate: makes batches of them.
        device: the device of the model.
    """

    recipe: Recipe
    steps: int
    data: Dataset
    collate: Collate
    device: torch.device

    def train(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Train the model in place; pruned weights stay zero. Collective: every rank must call this."""
        settings, budget, ranks = self.recipe.optimizer, self.recipe.budget, current_ranks()
        peak = self.recipe.learning_rate.peak or DEFAULT_PEAK
        groups = parameter_groups(model, peak, self.recipe.learning_rate.scale, decayed=settings.decayed)
        kind = torch.optim.Adam if settings.decoupled is False else torch.optim.AdamW
        optimizer = kind(groups, peak, settings.betas, settings.eps, settings.weight_decay)
        schedule = LambdaLR(optimizer, lambda step: 1 - step / self.steps)
        micro_batch = budget.micro_batch or max(1, budget.batch // ranks.world_size)
        plan = BatchPlan(len(self.data), budget.batch, micro_batch, ranks.world_size, self.recipe.seed)
        sampler = TrainSampler(plan, self.data["length"][:], ranks.rank, start=0, stop=self.steps)
        batches = iter(DataLoader(self.data, batch_sampler=sampler, collate_fn=self.collate))
        torch.manual_seed(self.recipe.seed + ranks.rank)
        set_dropout(model, self.recipe.dropout)
        model.train()
        for _ in range(self.steps):
            for batch in itertools.islice(batches, plan.accumulation):
                loss = model(**on_device(batch, self.device)).loss
                (loss / (plan.accumulation * ranks.world_size)).backward()
            self._step(model, masks, optimizer)
            schedule.step()
        model.eval()

    def _step(self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Sum the gradients over ranks, mask them, and step. Collective: every rank must call this."""
        if current_ranks().world_size > 1:
            _sum_gradients(list(model.parameters()))
        for name, weight in model.named_parameters():
            if name in masks and weight.grad is not None:
                weight.grad.mul_(masks[name])  # zero weight, gradient and moments: AdamW leaves it at zero
        if self.recipe.gradient_clipping:
            nn.utils.clip_grad_norm_(model.parameters(), self.recipe.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()


def _sum_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over ranks, some of which may not use a weight. Collective: every rank must call this."""
    is_used = torch.tensor([weight.grad is not None for weight in weights], device=weights[0].device)
    for weight, num_ranks in zip(weights, all_reduce_(is_used.int()).tolist(), strict=True):
        if num_ranks:
            weight.grad = all_reduce_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
