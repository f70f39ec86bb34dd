"""Pruning inside an optimizer step, at mask updates and between them.

Between mask updates only the gradients are masked. Where weight, gradient and moments are all zero, an
element-wise optimizer leaves them at zero. So one pass over the gradients keeps every pruned entry of the master
weights, the working copy and the moments at +0.0, and keeps pruned weights out of the clipping norm.

A method that keeps accumulators sees every gradient before it is masked, up to the last mask update.

At a mask update the new mask is selected before the step, and a hook on the base optimizer zeroes the weights and
moments that it prunes. DeepSpeed then copies and gathers the weights as after any step, so the zeros reach every
rank without further communication. A weight that grows back is zero already, and so are its moments. A step that is
skipped on overflow never reaches the hook.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.engine.guard import WeightGuard
from dsprune.kernels.product import Product
from dsprune.masks.bits import apply_all_, count_kept
from dsprune.methods.method import RegrowingMethod, ShardContext, find_method
from dsprune.recipe.pattern import Pattern
from dsprune.registry import SCOPES
from dsprune.schedule import MaskUpdate
from dsprune.schedule.law import drop_fraction
from dsprune.selection.groups import update_groups
from dsprune.selection.normalize import normalize
from dsprune.selection.patterned import select_tiles
from dsprune.selection.regrow import select_regrowing
from dsprune.selection.scan import Scorer, parts

__all__ = ["Pruner", "UpdateRecord"]

FIRST_DROP = 0.3
"""Default of `pruning.drop`, the value of RigL's authors."""


@dataclass(frozen=True)
class UpdateRecord:
    """The result and the cost of one mask update.

    Attributes:
        update: its step and its sparsity.
        num_pruned: number of pruned weights, over all tensors and ranks.
        seconds: time that this rank spent on the selection.
        bytes_sent: bytes that this rank passed to collectives in the selection.
        num_regrown: number of weights that were pruned before and grew back; None if the method lets none.
    """

    update: MaskUpdate
    num_pruned: int
    seconds: float
    bytes_sent: int
    num_regrown: int | None = None


class Pruner:
    """Prunes the weights of one engine, step by step.

    Args:
        state: the masks, and the weights that they belong to.
        seed: seed of methods with random scores.

    Attributes:
        state: as given.
        last_update: record of the newest mask update; None before the first one of this process.
    """

    def __init__(self, state: PruningState, seed: int) -> None:
        self.state = state
        self.last_update: UpdateRecord | None = None
        self._seed = seed
        self._method = find_method(state.pruning.method)()
        self._pending: tuple[UpdateRecord, list[Tensor]] | None = None
        self._zeroed = False
        self._weights = WeightGuard(state)
        state.layout.base_optimizer.register_step_pre_hook(self._zero_newly_pruned)

    def before_step(self, step: int) -> None:
        """Update the accumulators, select a new mask if an update is due at `step`, and mask the gradients.

        Collective at a mask update: every rank must call this, after `backward` and before the engine's step.

        Raises:
            RunFailedError: something else has changed the weights.
        """
        update = self.state.timetable.update_at(step)
        bits: Sequence[Tensor] = self.state.masks.bits
        self._weights.check_written()
        self._accumulate(step)
        if update is not None:
            self._weights.check()
            self._pending = self._select(update, step)
            self._zeroed = False
            _, bits = self._pending
        layout = self.state.layout
        gradients = [(row, layout.gradient(index)) for index, row in enumerate(bits)]
        found = [(row, gradient) for row, gradient in gradients if gradient is not None]
        apply_all_([row for row, _ in found], [gradient for _, gradient in found])
        layout.refresh_gradient_norms()

    def after_step(self, applied: bool) -> None:
        """Keep the new mask if the step was applied; otherwise drop it, and the update is due again."""
        self.state.accumulators.settle(applied=applied)
        if self._pending is not None and applied:
            self.last_update, bits = self._pending
            self.state.num_pruned = self.last_update.num_pruned
            self.state.masks.replace(bits)
            self._begin_interval(self.last_update.update)
        self._pending = None
        self._weights.accept()

    def check(self) -> None:
        """Check that the weights are as the last step left them. Collective: every rank must call this.

        Raises:
            RunFailedError: something else has changed them.
        """
        self._weights.check()

    def _accumulate(self, step: int) -> None:
        """Let the method update its accumulators, if it has any and the step counts for the next mask update."""
        accumulators, window = self.state.accumulators, self.state.pruning.window
        update = self.state.timetable.next_update(step) if accumulators.declared else None
        if update is None or (window is not None and update.step - step >= window):
            return
        for index, shard in enumerate(accumulators.shards):
            context = self._context(index, step, accumulators.values[index])
            for part in parts(shard.numel, self.state.layout.master_device):
                accumulators.stage(index, part, self._method.update(context[part]))

    def _begin_interval(self, update: MaskUpdate) -> None:
        """Begin the accumulation for the next mask update, or free its memory after the last."""
        if self.state.timetable.next_update(update.step + 1) is None:
            self.state.reset_accumulators(update.step + 1)
        else:
            self.state.accumulators.begin_interval()

    def _select(self, update: MaskUpdate, step: int) -> tuple[UpdateRecord, list[Tensor]]:
        """Select the new packed masks, and record the update. Collective: every rank must call this."""
        state, layout, method = self.state, self.state.layout, self._method
        started, sent = time.perf_counter(), state.comm.bytes_sent
        tensors = [shard.tensor for shard in layout.shards]
        groups = update_groups(tensors, state.pruning, state.timetable.progress(update))
        scorers, kept = self._scorers(method.scores, method.product, step), state.masks.bits
        if isinstance(method, RegrowingMethod):
            growth = self._scorers(method.growth_scores, lambda _: None, step)
            first = FIRST_DROP if state.pruning.drop is None else state.pruning.drop
            fraction = drop_fraction(state.timetable.update_progress(update), first)
            bits = select_regrowing(layout.shards, scorers, growth, kept, groups, fraction, state.comm)
        else:
            pattern = Pattern.parse(state.pruning.pattern)
            bits = select_tiles(
                layout.shards, scorers, kept, groups, state.comm, pattern, squared=method.squared
            )
        seconds, sent = time.perf_counter() - started, state.comm.bytes_sent - sent
        record = UpdateRecord(update, sum(group.num_pruned for group in groups), seconds, sent)
        if isinstance(method, RegrowingMethod):
            record = replace(record, num_regrown=self._count_regrown(bits))
        return record, bits

    def _count_regrown(self, bits: Sequence[Tensor]) -> int:
        """Return the number of weights that a new mask keeps and the present one prunes, over all ranks."""
        count = sum(count_kept(new & ~old) for new, old in zip(bits, self.state.masks.bits, strict=True))
        return int(self.state.comm.all_reduce_sum(torch.tensor(count)))

    def _scorers(
        self,
        scores: Callable[[ShardContext], Tensor],
        product: Callable[[ShardContext], Product | None],
        step: int,
    ) -> list[Scorer]:
        """Return scores of this rank's shards. Collective in scope `normalized`: every rank must call this."""
        layout = self.state.layout

        def scorer(context: ShardContext) -> Scorer:
            return Scorer(lambda part: scores(context[part]), self._method.absolute, product(context))

        newest = enumerate(self.state.accumulators.newest)
        scorers = [scorer(self._context(index, step, row)) for index, row in newest]
        if SCOPES.get(self.state.pruning.scope).normalized:
            scorers = normalize(layout.shards, scorers, layout.master_device, self.state.comm)
        return scorers

    def _context(self, index: int, step: int, accumulators: Mapping[str, Tensor]) -> ShardContext:
        shard, layout = self.state.layout.shards[index], self.state.layout
        return ShardContext(
            tensor=shard.tensor,
            positions=range(shard.start, shard.start + shard.numel),
            weight=layout.weight(index),
            gradient=layout.gradient(index),
            state=layout.states(index),
            seed=self._seed,
            step=step,
            accumulators=accumulators,
            loss_scale=layout.loss_scale,
        )

    def _zero_newly_pruned(self, *_: Any) -> None:
        """Zero what the new mask prunes, before the base optimizer's first step of a mask update.

        DeepSpeed steps the optimizer once a parameter group. The first call zeroes all groups: an update whose
        weight, gradient and moments are zero changes nothing.
        """
        if self._pending is None or self._zeroed:
            return
        layout = self.state.layout
        views = [
            (layout.weight(index), *layout.states(index).values()) for index in range(len(layout.shards))
        ]
        pairs = [(row, view) for row, each in zip(self._pending[1], views, strict=True) for view in each]
        apply_all_([row for row, _ in pairs], [view for _, view in pairs])
        self._zeroed = True
