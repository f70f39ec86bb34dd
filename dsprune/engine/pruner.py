"""Pruning inside an optimizer step, at mask updates and between them.

Between mask updates only the gradients are masked. Where weight, gradient and moments are all zero, an
element-wise optimizer leaves them at zero. So one pass over the gradients keeps every pruned entry of the master
weights, the working copy and the moments at +0.0, and keeps pruned weights out of the clipping norm.

At a mask update the new mask is selected before the step, and a hook on the base optimizer zeroes the weights and
moments that it prunes. DeepSpeed then copies and gathers the weights as after any step, so the zeros reach every
rank without further communication. A step that is skipped on overflow never reaches the hook.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.engine.guard import WeightGuard
from dsprune.masks.bits import apply_
from dsprune.methods.method import Method, ShardContext
from dsprune.registry import METHODS, SCOPES
from dsprune.schedule import MaskUpdate
from dsprune.selection import select
from dsprune.selection.groups import update_groups
from dsprune.selection.normalize import normalize
from dsprune.selection.scan import Scorer

__all__ = ["Pruner", "UpdateRecord"]


@dataclass(frozen=True)
class UpdateRecord:
    """The result and the cost of one mask update.

    Attributes:
        update: its step and its sparsity.
        num_pruned: number of pruned weights, over all tensors and ranks.
        seconds: time that this rank spent on the selection.
        bytes_sent: bytes that this rank passed to collectives.
    """

    update: MaskUpdate
    num_pruned: int
    seconds: float
    bytes_sent: int


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
        self._method: Method = METHODS.get(state.pruning.method)()
        self._pending: tuple[UpdateRecord, list[Tensor]] | None = None
        self._zeroed = False
        self._weights = WeightGuard(state)
        state.layout.base_optimizer.register_step_pre_hook(self._zero_newly_pruned)

    def before_step(self, step: int) -> None:
        """Select a new mask if an update is due at `step`, and mask the gradients.

        Collective at a mask update: every rank must call this, after `backward` and before the engine's step.

        Raises:
            RunFailedError: something else has changed the weights.
        """
        update = self.state.timetable.update_at(step)
        bits: Sequence[Tensor] = self.state.masks.bits
        self._weights.check_written()
        if update is not None:
            self._weights.check()
            self._pending = self._select(update, step)
            self._zeroed = False
            _, bits = self._pending
        layout = self.state.layout
        for index, row in enumerate(bits):
            gradient = layout.gradient(index)
            if gradient is not None:
                apply_(row, gradient)
        layout.refresh_gradient_norms()

    def after_step(self, applied: bool) -> None:
        """Keep the new mask if the step was applied; otherwise drop it, and the update is due again."""
        if self._pending is not None and applied:
            self.last_update, bits = self._pending
            self.state.num_pruned = self.last_update.num_pruned
            self.state.masks.replace(bits)
        self._pending = None
        self._weights.accept()

    def check(self) -> None:
        """Check that the weights are as the last step left them. Collective: every rank must call this.

        Raises:
            RunFailedError: something else has changed them.
        """
        self._weights.check()

    def _select(self, update: MaskUpdate, step: int) -> tuple[UpdateRecord, list[Tensor]]:
        """Select the new packed masks, and record the update. Collective: every rank must call this."""
        state, layout = self.state, self.state.layout
        started, sent = time.perf_counter(), state.comm.bytes_sent
        tensors = [shard.tensor for shard in layout.shards]
        groups = update_groups(tensors, state.pruning, state.timetable.progress(update))
        scorers = [self._scorer(index, step) for index in range(len(tensors))]
        if SCOPES.get(state.pruning.scope).normalized:
            scorers = normalize(layout.shards, scorers, layout.master_device, state.comm)
        bits = select(layout.shards, scorers, state.masks.bits, groups, state.comm)
        seconds, sent = time.perf_counter() - started, state.comm.bytes_sent - sent
        return UpdateRecord(update, sum(group.num_pruned for group in groups), seconds, sent), bits

    def _scorer(self, index: int, step: int) -> Scorer:
        shard, layout = self.state.layout.shards[index], self.state.layout
        context = ShardContext(
            tensor=shard.tensor,
            positions=range(shard.start, shard.start + shard.numel),
            weight=layout.weight(index),
            gradient=layout.gradient(index),
            state=layout.states(index),
            seed=self._seed,
            step=step,
        )
        return Scorer(lambda part: self._method.scores(context[part]), self._method.absolute)

    def _zero_newly_pruned(self, *_: Any) -> None:
        """Zero what the new mask prunes, before the base optimizer's first step of a mask update.

        DeepSpeed steps the optimizer once a parameter group. The first call zeroes all groups: an update whose
        weight, gradient and moments are zero changes nothing.
        """
        if self._pending is None or self._zeroed:
            return
        layout = self.state.layout
        for index, bits in enumerate(self._pending[1]):
            for view in (layout.weight(index), *layout.states(index).values()):
                apply_(bits, view)
        self._zeroed = True
