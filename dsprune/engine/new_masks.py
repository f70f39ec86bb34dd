"""Select the new masks of a mask update by the scores of the recipe's method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.kernels.product import Product
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.method import (
    DAMPING,
    DROP,
    RECOMPUTATIONS,
    CompensatingMethod,
    Method,
    RegrowingMethod,
    ShardContext,
)
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.schedule import MaskUpdate
from dsprune.schedule.curves import drop_fraction
from dsprune.selection.compensate import Blocks, select_compensating
from dsprune.selection.groups import Group
from dsprune.selection.normalize import normalize
from dsprune.selection.patterned import select_tiles
from dsprune.selection.regrow import select_regrowing
from dsprune.selection.scan import Scorer

__all__ = ["context_of", "new_masks"]


def new_masks(
    state: PruningState, method: Method, update: MaskUpdate, groups: Sequence[Group], seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the new packed masks and, for a method that updates weights, the new weights.

    Collective: every rank must call this.

    Args:
        state: the masks so far, and the weights that they belong to.
        method: the method that scores the weights.
        update: the mask update.
        groups: the groups of tensors, with their numbers of zeros.
        seed: seed of methods with random scores.
    """
    layout, kept, comm = state.layout, state.masks.bits, state.comm
    if update.sparsity == 0:
        return list(MaskSet(layout.shards, layout.master_device).bits), []
    if isinstance(method, CompensatingMethod):
        return _select_compensating(state, method, update, groups, seed)

    def scorers(
        scores: Callable[[ShardContext], Tensor], product: Callable[[ShardContext], Product | None]
    ) -> list[Scorer]:
        contexts = _contexts(state, seed, update.step)
        found = [_scorer(context, scores, product, absolute=method.absolute) for context in contexts]
        if SCOPES.get(state.pruning.scope).normalized:
            found = normalize(layout.shards, found, layout.master_device, comm)
        return found

    dropped = scorers(method.scores, method.product)
    if isinstance(method, RegrowingMethod):
        growth = scorers(method.growth_scores, lambda _: None)
        first = DROP if state.pruning.drop is None else state.pruning.drop
        fraction = drop_fraction(state.timetable.update_progress(update), first)
        return select_regrowing(layout.shards, dropped, growth, kept, groups, fraction, comm), []
    pattern = Pattern.parse(state.pruning.pattern)
    return select_tiles(layout.shards, dropped, kept, groups, comm, pattern, squared=method.squared), []


def context_of(
    state: PruningState, index: int, accumulators: Mapping[str, Tensor], *, seed: int, step: int
) -> ShardContext:
    """Return the context of a shard, which a method reads."""
    shard, layout = state.layout.shards[index], state.layout
    return ShardContext(
        tensor=shard.tensor,
        positions=range(shard.start, shard.start + shard.numel),
        weight=layout.weight(index),
        gradient=layout.gradient(index),
        state=layout.states(index),
        seed=seed,
        step=step,
        accumulators=accumulators,
        loss_scale=layout.loss_scale,
    )


def _contexts(state: PruningState, seed: int, step: int) -> list[ShardContext]:
    """Return the contexts of all shards at a mask update, with the norms of inputs if the method reads them."""
    newest, sums = state.accumulators.newest, state.accumulators.inputs
    contexts = [
        context_of(state, index, newest(index), seed=seed, step=step)
        for index in range(len(state.layout.shards))
    ]
    if sums is None:
        return contexts
    device, norms = state.layout.master_device, sums.norms(state.pruning.method)
    return [replace(one, inputs=found.to(device)) for one, found in zip(contexts, norms, strict=True)]


def _scorer(
    context: ShardContext,
    scores: Callable[[ShardContext], Tensor],
    product: Callable[[ShardContext], Product | None],
    *,
    absolute: bool,
) -> Scorer:
    return Scorer(lambda part: scores(context[part]), absolute, product(context))


def _select_compensating(
    state: PruningState, method: CompensatingMethod, update: MaskUpdate, groups: Sequence[Group], seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return new masks and weights. Collective: every rank must call this."""
    pruning = state.pruning
    settings = {
        "seed": seed,
        "step": update.step,
        "num_steps": state.num_counted(update),
        "damping": DAMPING if pruning.damping is None else pruning.damping,
    }
    return select_compensating(
        method,
        Blocks(state.accumulators, state.layout.weight, settings),
        state.masks.bits,
        groups,
        state.comm,
        parts=pruning.recomputations or RECOMPUTATIONS,
        normalized=SCOPES.get(pruning.scope).normalized,
    )
