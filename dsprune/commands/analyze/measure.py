"""Measure the components of a model: their size and operations, and the metric when one of them is pruned."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor, nn

from dsprune.commands.analyze.recovery import Recovery
from dsprune.commands.analyze.result import Finding, LayerLoss, without_nan
from dsprune.model.components import Component
from dsprune.model.cost import Flops, forward_flops, stretched
from dsprune.model.patterns import patterns_of
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.model.shard import PrunableTensor
from dsprune.ranks.collectives import world_comm
from dsprune.recipe import Recipe
from dsprune.selection.complete import select_complete
from dsprune.selection.groups import make_groups
from dsprune.tasks.build import build_task
from dsprune.tasks.examples import Collate, on_device
from dsprune.tasks.task import Task
from dsprune.train.evaluation import evaluate

__all__ = ["Evaluator", "Extent", "layers_of", "pruned", "restored", "set_up"]


@dataclass(frozen=True)
class Extent:
    """The extent of an analysis.

    Attributes:
        sparsities: sparsities to prune each component to, in addition to the recipe's target.
        recovery_steps: training steps between pruning and a second measurement; 0 = none.
        layers: whether to also prune each component of each layer alone.
        batch_size: examples of a forward pass on a rank.
    """

    sparsities: tuple[float, ...] = ()
    recovery_steps: int = 0
    layers: bool = True
    batch_size: int = 32


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on its task while some of its weights are pruned.

    Attributes:
        model: the model, trained for the task.
        task: the task.
        data: encoded validation examples.
        collate: makes batches of them.
        device: the device of the model.
        batch_size: examples of a forward pass on a rank.
        recovery: the training between pruning and measuring; None = no training.
    """

    model: nn.Module
    task: Task
    data: Dataset
    collate: Collate
    device: torch.device
    batch_size: int
    recovery: Recovery | None

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the unpruned model, the headline first. Collective: every rank must call this."""
        return evaluate(
            self.model, self.task, self.data, self.collate,
            batch_size=self.batch_size, device=self.device, comm=world_comm(),
        )  # fmt: skip

    def score(self) -> float:
        """Return the headline metric. Collective: every rank must call this."""
        return next(iter(self.metrics().values()))

    def score_without(self, tensors: Sequence[PrunableTensor], sparsity: float) -> float:
        """Return the metric with some tensors pruned in one shot. Collective: every rank must call this."""
        with pruned(self.model, tensors, sparsity):
            return self.score()

    def score_recovered(self, tensors: Sequence[PrunableTensor], sparsity: float) -> float | None:
        """Return the same after the recovery; None = there is none. Collective: every rank must call this."""
        if self.recovery is None:
            return None
        with restored(self.model), pruned(self.model, tensors, sparsity) as masks:
            self.recovery.train(self.model, masks)
            return self.score()

    def flops(self, length: int) -> Flops:
        """Count the operations of a forward pass of one example of `length` tokens."""
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
        """Measure one component. Collective: every rank must call this.

        Args:
            component: the component.
            sparsities: sparsities to prune it to in one shot, the target among them.
            target: sparsity of the measurement after the recovery.
            flops: operations of a forward pass.
            prunable: names of the tensors that the recipe prunes.
            advance: called after each measurement.
        """
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
        """Prune each component of each layer alone, worst score first. Collective: every rank must call this."""
        losses = []
        for component in components:
            for layer in layers_of(component):
                score = self.score_without(component.in_layer(layer), target)
                losses.append(LayerLoss(layer=layer, component=component.name, score=score))
                advance()
        return tuple(sorted(losses, key=lambda loss: (without_nan(loss.score), loss.layer)))


def set_up(recipe: Recipe, extent: Extent, device: torch.device) -> Evaluator:
    """Load the model and the data of a recipe.

    Raises:
        UserError: the recipe has no model or task, or the model is not trained for the task.
    """
    if recipe.model is None or recipe.task is None:
        raise recipe.lacks("an analysis", "model", "task")
    tokenizer = load_tokenizer(recipe.model.tokenizer_path)
    task = build_task(recipe.task).for_model(load_config(recipe.model.path)).for_tokenizer(tokenizer)
    model: nn.Module = task.build_model(recipe.model.path, tokenizer, new_head=False)
    model.eval().to(device)
    collate = task.collate(tokenizer)
    recovery = None
    if extent.recovery_steps:
        data = task.prepare("train", tokenizer)
        recovery = Recovery(recipe, extent.recovery_steps, data, collate, device)
    validation = task.prepare("validation", tokenizer)
    return Evaluator(model, task, validation, collate, device, extent.batch_size, recovery)


def layers_of(component: Component) -> list[int]:
    """Return the numbers of the blocks in which a component has matrices."""
    matrices = zip(component.tensors, component.layers, strict=True)
    return sorted({layer for tensor, layer in matrices if layer is not None and len(tensor.shape) > 1})


@contextmanager
def pruned(
    model: nn.Module, tensors: Sequence[PrunableTensor], sparsity: float
) -> Iterator[dict[str, Tensor]]:
    """Set the smallest `round(sparsity * n)` weights of some tensors together to zero.

    The weights are restored at the end. Ranks that hold the same model prune the same weights.

    Yields:
        The masks by name of the tensor, in its shape; True = kept.
    """
    weights = dict(model.named_parameters())
    chosen = {tensor.name: weights[tensor.name].data for tensor in tensors}
    groups = make_groups(tensors, [sparsity] * len(tensors))
    masks = dict(zip(chosen, select_complete(tensors, list(chosen.values()), groups), strict=True))
    before = {name: values.clone() for name, values in chosen.items()}
    try:
        for name, mask in masks.items():
            chosen[name].masked_fill_(~mask, 0.0)
        yield masks
    finally:
        for name, values in before.items():
            chosen[name].copy_(values)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore all parameters and buffers at the end."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(state)
