"""Pruning inside an optimizer step: what happens at an event, and what holds between two of them.

Between events only the gradients are masked. Where weight, gradient and moments are all zero, an element-wise
optimizer leaves them at zero, so one pass over the gradients keeps every pruned entry of the master weights,
the working copy and the moments at +0.0, and keeps pruned weights out of the clipping norm.

At an event the new mask is selected before the step, and the weights and moments that it prunes are zeroed by
a hook on the base optimizer. DeepSpeed then copies and gathers the weights as after any step, so the zeros
reach every rank without further communication, and a step that is skipped on overflow never reaches the hook.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsprune.distributed.comm import Comm
from dsprune.distributed.masks import MaskSet
from dsprune.distributed.selection import normalized, select
from dsprune.engine.zero import ZeroLayout
from dsprune.pure.masks.audit import Finding, check_shard
from dsprune.pure.masks.bits import apply_
from dsprune.pure.methods import ShardContext, get_method
from dsprune.pure.recipe import Pruning
from dsprune.pure.schedule import Event, Timetable
from dsprune.pure.selection.groups import event_groups
from dsprune.pure.selection.passes import Scorer

__all__ = ["EventRecord", "Pruner"]


@dataclass(frozen=True)
class EventRecord:
    """What one event did.

    Attributes:
        event: when, and the sparsity it was to reach.
        num_pruned: zeros of all prunable tensors, over all ranks.
        seconds: time this rank spent on the selection.
        bytes_sent: bytes this rank handed to collectives.
    """

    event: Event
    num_pruned: int
    seconds: float
    bytes_sent: int


class Pruner:
    """Keeps the masks of one engine in step with its clock.

    Args:
        layout: this rank's slices of the prunable tensors.
        pruning: the recipe's section.
        timetable: when the events are.
        seed: of methods that draw their scores.

    Attributes:
        masks: of this rank's shards.
        num_pruned: zeros of all prunable tensors, over all ranks.
        last_event: what the newest event did; None before the first, and after a restart until the next.
        begun_with: zeros of each tensor that the run began with; empty when it began dense.
    """

    def __init__(self, layout: ZeroLayout, pruning: Pruning, timetable: Timetable, seed: int) -> None:
        self.layout = layout
        self.pruning = pruning
        self.timetable = timetable
        self.comm = Comm(layout.group, layout.device)
        self.masks = MaskSet(layout.shards, layout.master_device)
        self.num_pruned = 0
        self.last_event: EventRecord | None = None
        self.begun_with: list[int] = []
        self._seed = seed
        self._method = get_method(pruning.method)
        self._pending: tuple[EventRecord, list[Tensor]] | None = None
        self._zeroed = False
        layout.base_optimizer.register_step_pre_hook(self._zero_newly_pruned)

    def before_step(self, clock: int) -> None:
        """Select the mask of the event at `clock`, if there is one, and mask the gradients.

        Collective at an event: every rank must call this, after `backward` and before `step`.
        """
        event = self.timetable.event_at(clock)
        bits: Sequence[Tensor] = self.masks.bits
        if event is not None:
            self._pending = self._select(event, clock)
            self._zeroed = False
            _, bits = self._pending
        for index, row in enumerate(bits):
            gradient = self.layout.gradient(index)
            if gradient is not None:
                apply_(row, gradient)
        self.layout.gradients_changed()

    def after_step(self, applied: bool) -> None:
        """Take the event's mask over, or drop it when the step was skipped: the event then comes again."""
        if self._pending is not None and applied:
            self.last_event, bits = self._pending
            self.num_pruned = self.last_event.num_pruned
            self.masks.replace(bits)
        self._pending = None

    def restore(self, bits: Sequence[Tensor]) -> None:
        """Go on with masks from a checkpoint. Collective: every rank must call this."""
        self.masks.replace([row.to(self.layout.master_device) for row in bits])
        self.num_pruned = sum(self.masks.counts(self.comm))

    @property
    def num_prunable(self) -> int:
        """Number of prunable weights over all ranks."""
        return sum(shard.tensor.numel for shard in self.layout.shards)

    def mask_bytes(self) -> int:
        """Memory of the masks, over all ranks that share them. Collective: every rank must call this."""
        return int(self.comm.all_reduce_sum(torch.tensor(self.masks.nbytes)))

    def tensor_sparsity(self) -> dict[str, float]:
        """Fraction of zeros of each prunable tensor. Collective: every rank must call this."""
        counts = self.masks.counts(self.comm)
        tensors = [shard.tensor for shard in self.layout.shards]
        return {tensor.name: count / tensor.numel for tensor, count in zip(tensors, counts, strict=True)}

    def audit(self) -> list[Finding]:
        """What does not hold on this rank: pruned entries of weights and moments are +0.0, in every copy."""
        return [
            finding
            for index, (shard, bits) in enumerate(zip(self.masks.shards, self.masks.bits, strict=True))
            for finding in check_shard(shard.tensor.name, bits, dict(self._views(index)))
        ]

    def _views(self, index: int) -> Iterator[tuple[str, Tensor]]:
        yield "master weights", self.layout.weight(index)
        yield "working copy", self.layout.working_copy(index)
        yield from self.layout.states(index).items()

    def _select(self, event: Event, clock: int) -> tuple[EventRecord, list[Tensor]]:
        started, sent = time.perf_counter(), self.comm.bytes_sent
        tensors = [shard.tensor for shard in self.layout.shards]
        groups = event_groups(tensors, self.pruning, self.timetable.progress(event))
        scorers = [self._scorer(index, clock) for index in range(len(tensors))]
        if self.pruning.scope == "normalized":
            scorers = normalized(self.layout.shards, scorers, self.layout.master_device, self.comm)
        bits = select(self.layout.shards, scorers, self.masks.bits, groups, self.comm)
        seconds, sent = time.perf_counter() - started, self.comm.bytes_sent - sent
        return EventRecord(event, sum(group.num_pruned for group in groups), seconds, sent), bits

    def _scorer(self, index: int, clock: int) -> Scorer:
        shard, layout = self.layout.shards[index], self.layout
        context = ShardContext(
            tensor=shard.tensor,
            positions=range(shard.start, shard.start + shard.numel),
            weight=layout.weight(index),
            gradient=layout.gradient(index),
            state=layout.states(index),
            seed=self._seed,
            clock=clock,
        )
        return Scorer(lambda part: self._method.scores(context[part]), self._method.absolute)

    def _zero_newly_pruned(self, *_: Any) -> None:
        """Before the base optimizer's first step of an event, zero what the new mask prunes.

        DeepSpeed steps the optimizer once a parameter group. The first call does them all: an update whose
        weight, gradient and moments are zero changes nothing.
        """
        if self._pending is None or self._zeroed:
            return
        for index, bits in enumerate(self._pending[1]):
            for view in (self.layout.weight(index), *self.layout.states(index).values()):
                apply_(bits, view)
        self._zeroed = True
