"""What a recipe comes to, before anything runs: its timetable on a model of known size."""

from dataclasses import dataclass

from dsprune.pure.recipe import Recipe
from dsprune.pure.schedule import Event, Timetable
from dsprune.pure.selection.groups import Group, make_groups
from dsprune.pure.shard import PrunableTensor

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A recipe laid out on a model.

    Attributes:
        recipe: the recipe.
        model_path: folder or hub name of the model.
        timetable: when what happens.
        num_examples: size of the training data, or None if the recipe does without (it counts in steps).
        num_weights: all weights of the model.
        tensors: those that are pruned; none without pruning.
    """

    recipe: Recipe
    model_path: str
    timetable: Timetable
    num_examples: int | None
    num_weights: int
    tensors: tuple[PrunableTensor, ...]

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights."""
        return sum(tensor.numel for tensor in self.tensors)

    def groups(self, event: Event) -> list[Group]:
        """Who competes at an event, and how many of them are pruned."""
        pruning = self.recipe.pruning
        assert pruning is not None, "without pruning there are no events"
        targets = [
            pruning.sparsity if tensor.sparsity is None else tensor.sparsity for tensor in self.tensors
        ]
        progress = self.timetable.progress(event)
        return make_groups(
            self.tensors, [progress * target for target in targets], pruning.scope == "uniform"
        )

    def num_pruned(self, event: Event) -> int:
        """Number of zeros after an event."""
        return sum(group.num_pruned for group in self.groups(event))
