"""Which weights compete with which: the scope of pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsprune.pure.recipe import Pruning
from dsprune.pure.shard import PrunableTensor

__all__ = ["Group", "event_groups", "make_groups"]


@dataclass(frozen=True)
class Group:
    """Tensors that share one quota of pruned weights.

    Attributes:
        name: how messages call it.
        tensors: their places in the global order, ascending.
        num_weights: how many weights they have.
        num_pruned: how many of those are to be zero.
    """

    name: str
    tensors: tuple[int, ...]
    num_weights: int
    num_pruned: int


def event_groups(tensors: Sequence[PrunableTensor], pruning: Pruning, progress: float) -> list[Group]:
    """The groups of an event.

    Args:
        tensors: all prunable tensors, in the global order.
        pruning: the target, and the scope.
        progress: the event's sparsity as a fraction of the target, which tensors with targets of their own
            take as well.
    """
    targets = [pruning.sparsity if tensor.sparsity is None else tensor.sparsity for tensor in tensors]
    return make_groups(tensors, [progress * target for target in targets], uniform=pruning.scope == "uniform")


def make_groups(tensors: Sequence[PrunableTensor], sparsities: Sequence[float], uniform: bool) -> list[Group]:
    """Groups tensors whose sparsity is the same; or, if `uniform`, makes each a group of its own.

    Every group gets exactly `round(sparsity * num_weights)` zeros.
    """
    members: dict[object, list[int]] = {}
    for place, sparsity in enumerate(sparsities):
        members.setdefault(place if uniform else sparsity, []).append(place)
    return [_make_group(tensors, places, sparsities[places[0]]) for places in members.values()]


def _make_group(tensors: Sequence[PrunableTensor], places: Sequence[int], sparsity: float) -> Group:
    first = tensors[places[0]].name
    name = first if len(places) == 1 else f"{first} and {len(places) - 1} more"
    num_weights = sum(tensors[place].numel for place in places)
    return Group(name, tuple(places), num_weights, round(sparsity * num_weights))
