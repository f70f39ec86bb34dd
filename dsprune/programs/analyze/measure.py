"""Measuring a model: what each component is, and what pruning it alone does to the task."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from datasets import Dataset
from torch import nn

from dsprune.distributed.ranks import Ranks
from dsprune.errors import UserError
from dsprune.programs.analyze.recovery import Recovery
from dsprune.programs.analyze.result import Finding, LayerLoss
from dsprune.programs.analyze.trial import pruned, restored
from dsprune.programs.evaluate import evaluate
from dsprune.pure.components import Component
from dsprune.pure.flops import Flops, forward_flops, stretched
from dsprune.pure.recipe import Recipe
from dsprune.pure.shard import PrunableTensor
from dsprune.tasks.pretrained import load_config, load_tokenizer
from dsprune.tasks.registry import build_task
from dsprune.tasks.task import Collate, Task, on_device

__all__ = ["Bench", "set_up"]


@dataclass(frozen=True)
class Bench:
    """A model on its task.

    Attributes:
        model: trained for the task.
        task: what it does.
        data: encoded validation examples.
        collate: makes batches.
        ranks: who shares the work.
        device: where the model is.
        batch_size: examples of a forward pass on a rank.
        recovery: how to train between pruning and measuring; None = not at all.
    """

    model: nn.Module
    task: Task
    data: Dataset
    collate: Collate
    ranks: Ranks
    device: torch.device
    batch_size: int
    recovery: Recovery | None

    def metrics(self) -> dict[str, float]:
        """The task's metrics of the model as it is, the headline first. Collective: every rank must call this."""
        group = dist.group.WORLD if self.ranks.world_size > 1 else None
        return evaluate(
            self.model, self.task, self.data, self.collate,
            batch_size=self.batch_size, device=self.device, group=group,
        )  # fmt: skip

    def score(self) -> float:
        """The headline metric. Collective: every rank must call this."""
        return next(iter(self.metrics().values()))

    def score_without(self, tensors: Sequence[PrunableTensor], sparsity: float) -> float:
        """The metric while some tensors are pruned, one shot. Collective: every rank must call this."""
        with pruned(self.model, tensors, sparsity):
            return self.score()

    def score_recovered(self, tensors: Sequence[PrunableTensor], sparsity: float) -> float | None:
        """The same after the recovery, if there is one. Collective: every rank must call this."""
        if self.recovery is None:
            return None
        with restored(self.model), pruned(self.model, tensors, sparsity) as masks:
            self.recovery.train(self.model, masks)
            return self.score()

    def flops(self, length: int) -> Flops:
        """Operations of a forward pass of one example of so many tokens."""
        example = self.task.inputs(self.collate([self.data[0]]))
        return forward_flops(self.model, on_device(stretched(example, length), self.device))

    def finding(
        self,
        component: Component,
        sparsities: Sequence[float],
        target: float,
        flops: Flops,
        prunable: frozenset[str],
        advance: Callable[[], object],
    ) -> Finding:
        """All about a component. Collective: every rank must call this."""
        scores = {}
        for sparsity in sparsities:
            scores[sparsity] = self.score_without(component.tensors, sparsity)
            advance()
        names = [tensor.name for tensor in component.tensors]
        return Finding(
            name=component.name,
            patterns=patterns_of(names),
            num_weights=component.num_weights,
            flops=sum(flops.by_weight.get(name, 0) for name in names),
            is_prunable=not prunable.isdisjoint(names),
            scores=scores,
            recovered=self.score_recovered(component.tensors, target),
        )

    def layer_losses(
        self, components: Sequence[Component], target: float, advance: Callable[[], object]
    ) -> tuple[LayerLoss, ...]:
        """Matrices of the blocks one at a time, worst first. Collective: every rank must call this."""
        losses = []
        for component in components:
            for layer in layers_of(component):
                score = self.score_without(component.in_layer(layer), target)
                losses.append(LayerLoss(layer, component.name, score))
                advance()
        return tuple(sorted(losses, key=lambda loss: (loss.score, loss.layer)))


def set_up(recipe: Recipe, batch_size: int, recovery_steps: int, ranks: Ranks, device: torch.device) -> Bench:
    """The model of a recipe on its task.

    Raises:
        UserError: the recipe has no model or task, or the model is not trained for the task.
    """
    if recipe.model is None or recipe.task is None:
        raise UserError(f"recipe {recipe.name!r}: an analysis needs the sections model and task: add them")
    tokenizer = load_tokenizer(recipe.model.tokenizer or recipe.model.path)
    task = build_task(recipe.task).for_model(load_config(recipe.model.path)).for_tokenizer(tokenizer)
    model: nn.Module = task.build_model(recipe.model.path, tokenizer, new_head=False)
    model.eval().to(device)
    collate = task.collate(tokenizer)
    recovery = None
    if recovery_steps:
        data = task.prepare("train", tokenizer)
        recovery = Recovery(recipe, recovery_steps, data, collate, ranks, device)
    validation = task.prepare("validation", tokenizer)
    return Bench(model, task, validation, collate, ranks, device, batch_size, recovery)


def layers_of(component: Component) -> list[int]:
    """The blocks in which a component has matrices."""
    matrices = zip(component.tensors, component.layers, strict=True)
    return sorted({layer for tensor, layer in matrices if layer is not None and len(tensor.shape) > 1})


def patterns_of(names: Sequence[str]) -> tuple[str, ...]:
    """Globs that match these names: a number between dots becomes one of as many digits.

    A `*` would do too much: it matches dots.

    Examples:
        >>> patterns_of(["layer.3.fc1.weight", "layer.4.fc1.weight", "layer.10.fc1.weight"])
        ('layer.[0-9].fc1.weight', 'layer.[0-9][0-9].fc1.weight')
    """
    return tuple(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", lambda m: "[0-9]" * len(m[0]), n) for n in names))
