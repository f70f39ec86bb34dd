"""Pruning inside an optimizer step: what happens at an event, and what holds between two of them.

Between events only the gradients are masked. Where weight, gradient and moments are all zero, an element-wise
optimizer leaves them at zero, so one pass over the gradients keeps every pruned entry of the master weights,
the working copy and the moments at +0.0, and keeps pruned weights out of the clipping norm.

At an event the new mask is selected before the step, and the weights and moments that it prunes are zeroed by
a hook on the base optimizer. DeepSpeed then copies and gathers the weights as after any step, so the zeros
reach every rank without further communication, and a step that is skipped on overflow never reaches the hook.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.select import select
from dsprune.engine.zero import ZeroLayout
from dsprune.pure.audit import Finding, check_shard
from dsprune.pure.bits import apply_
from dsprune.pure.methods import ShardContext, get_method
from dsprune.pure.recipe import Pruning
from dsprune.pure.schedule import Event, Timetable
from dsprune.pure.targets import group_targets

__all__ = ["EventRecord", "Pruner"]


@dataclass(frozen=True)
class EventRecord:
    """What one event did.

    Attributes:
        event: when, and the sparsity it was to reach.
        num_pruned: zeros of each prunable tensor over all ranks, in the global order.
        seconds: time this rank spent on selecting.
        bytes_sent: bytes this rank handed to collectives.
    """

    event: Event
    num_pruned: tuple[int, ...]
    seconds: float
    bytes_sent: int


class Pruner:
    """Keeps the masks of one engine in step with its clock.

    Args:
        layout: this rank's slices of the prunable tensors.
        pruning: the recipe's section.
        timetable: when the events are.
        seed: of methods that draw random scores.
    """

    def __init__(self, layout: ZeroLayout, pruning: Pruning, timetable: Timetable, seed: int) -> None:
        self.layout = layout
        self.pruning = pruning
        self.timetable = timetable
        self.seed = seed
        self.comm = Comm(layout.group)
        self.masks = MaskSet(layout.shards)
        self.last_event: EventRecord | None = None
        self._method = get_method(pruning.method)
        self._pending: list[Tensor] | None = None
        layout.base_optimizer.register_step_pre_hook(self._zero_newly_pruned)

    def before_step(self, clock: int) -> None:
        """Select the mask of the event at `clock`, if there is one, and mask the gradients.

        Collective at an event: every rank must call this, between `backward` and `step`.
        """
        event = self.timetable.event_at(clock)
        if event is not None:
            self._pending = self._select(event, clock)
        for index, bits in enumerate(self.masks.bits if self._pending is None else self._pending):
            gradient = self.layout.gradient(index)
            if gradient is not None:
                apply_(bits, gradient)
        self.layout.gradients_changed()

    def after_step(self, applied: bool) -> None:
        """Take the event's mask over, or drop it when the step was skipped: the event then comes again."""
        if self._pending is not None and applied:
            self.masks.replace(self._pending)
        self._pending = None

    def audit(self) -> list[Finding]:
        """Check this rank's shards: pruned entries of weights, working copy and moments are +0.0."""
        return [
            finding
            for index, (shard, bits) in enumerate(zip(self.layout.shards, self.masks.bits, strict=True))
            for finding in check_shard(shard.tensor.name, bits, dict(self._views(index)))
        ]

    def _views(self, index: int) -> Iterator[tuple[str, Tensor]]:
        yield "master weight", self.layout.weight(index)
        yield "working copy", self.layout.working_copy(index)
        yield from self.layout.states(index).items()

    def _select(self, event: Event, clock: int) -> list[Tensor]:
        start, sent = time.perf_counter(), self.comm.bytes_sent
        tensors = [shard.tensor for shard in self.layout.shards]
        groups = group_targets(tensors, self.pruning, self.timetable.progress(event))

        def scores(index: int) -> Tensor:
            shard, weight = self.layout.shards[index], self.layout.weight(index)
            gradient, states = self.layout.gradient(index), self.layout.states(index)
            return self._method.scores(ShardContext(shard, weight, gradient, states, self.seed, clock))

        bits = select(self.layout.shards, scores, self.masks.bits, groups, self.comm)
        seconds, sent = time.perf_counter() - start, self.comm.bytes_sent - sent
        self.last_event = EventRecord(event, (), seconds, sent)
        return bits

    def _zero_newly_pruned(self, *_: Any) -> None:
        """Before the base optimizer's first step of an event, zero what the new mask prunes.

        DeepSpeed steps the optimizer once a parameter group; the first call does them all, since the update
        of a weight whose gradient and moments are zero changes nothing.
        """
        if self._pending is None or self._pending is self._zeroed:
            return
        for index, bits in enumerate(self._pending):
            apply_(bits, self.layout.weight(index))
            for state in self.layout.states(index).values():
                apply_(bits, state)
        self._zeroed = self._pending
