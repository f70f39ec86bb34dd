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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.engine.guard import WeightGuard
from dsprune.engine.new_masks import context_of, new_masks
from dsprune.engine.update import PendingUpdate, UpdateRecord
from dsprune.masks.bits import apply_all_, count_kept
from dsprune.masks.manifest import UpdateEntry
from dsprune.methods.method import Method
from dsprune.ranks.group import announce
from dsprune.schedule import MaskUpdate

__all__ = ["Pruner"]


class Pruner:
    """Prunes the weights of one engine, step by step.

    Args:
        state: the masks, and the weights that they belong to.
        seed: seed of methods with random scores.

    Attributes:
        state: as given.
        guard: ends the run if other code changes the weights.
        last_update: record of the newest mask update; None before the first one of this process.
    """

    def __init__(self, state: PruningState, seed: int) -> None:
        self.state = state
        self.last_update: UpdateRecord | None = None
        self._seed = seed
        self._methods: dict[type[Method], Method] = {}
        self._pending: PendingUpdate | None = None
        self._zeroed = False
        self.guard = WeightGuard(state)
        state.layout.base_optimizer.register_step_pre_hook(self._zero_newly_pruned)

    def before_step(self, step: int) -> None:
        """Update the accumulators, select a new mask if an update is due at `step`, and mask the gradients.

        Collective at a mask update: every rank must call this, after `backward` and before the engine's step.

        Raises:
            RunFailedError: other code has changed the weights.
        """
        update = self.state.timetable.update_at(step)
        bits: Sequence[Tensor] = self.state.masks.bits
        self.guard.check_written()
        self._accumulate(step)
        if update is not None:
            self.guard.check()
            if self.state.regrows:
                self.guard.check_moments()
            self._pending = self._select(update)
            self._zeroed = False
            bits = self._pending.bits
        layout = self.state.layout
        gradients = [(row, layout.gradient(index)) for index, row in enumerate(bits)]
        found = [(row, gradient) for row, gradient in gradients if gradient is not None]
        apply_all_([row for row, _ in found], [gradient for _, gradient in found])
        layout.refresh_gradient_norms()

    def after_step(self, step: int, applied: bool) -> None:
        """Keep the new mask if the step was applied. Otherwise drop it; the update is then due again.

        Collective at a mask update, and for a method with a `block`: every rank must call this.
        """
        self.state.accumulators.settle(applied=applied)
        if self._pending is not None and applied:
            self._keep(self._pending)
        if applied:
            self.state.begin_step(step + 1, updated=self._pending is not None)
        self._pending = None
        self.guard.accept()

    def _keep(self, update: PendingUpdate) -> None:
        """Store the result of an applied mask update in the state. Collective: every rank must call this."""
        state, record = self.state, update.record
        self.last_update = record
        state.masks.replace(update.bits, update.regrown)
        updates = state.timetable.updates
        if record.update in (updates[0], updates[-1]):
            self._announce_emptied(record.update.step)
        state.num_pruned, state.num_regrown = record.num_pruned, update.num_marked
        state.updates.append(
            UpdateEntry(
                step=record.update.step, num_pruned=record.num_pruned, num_regrown=record.num_regrown or 0
            )
        )

    def _announce_emptied(self, step: int) -> None:
        """Print the matrices without a kept weight after a mask update. Collective: every rank must call this."""
        if emptied := self.state.masks.emptied(self.state.comm):
            which = emptied[0] if len(emptied) == 1 else f"{len(emptied)} matrices, such as {emptied[0]}"
            announce(
                f"the mask update at step {step} leaves no weight of {which}: the scores there are the lowest, as "
                f"where there was no gradient yet: train it before pruning.start, name it in pruning.exclude, or set "
                f"pruning.scope=uniform"
            )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """If a pass fails because parameters of the module were replaced, name them: DeepSpeed's errors do not.

        Raises:
            RunFailedError: parameters were replaced.
        """
        try:
            yield
        except (RuntimeError, LookupError, AttributeError):
            self.guard.check_module()
            raise

    def _method_at(self, step: int) -> Method:
        kind = self.state.method_at(step)
        if kind not in self._methods:
            self._methods[kind] = kind()
        return self._methods[kind]

    def _accumulate(self, step: int) -> None:
        """Update the method's accumulators, if it has any and the step counts for the next mask update.

        Collective for a method that has a `block` or reads inputs: every rank must call this.
        """
        accumulators, method = self.state.accumulators, self._method_at(step)
        if not self.state.is_counted(step):
            return
        self.state.stage_inputs()
        if not accumulators.declared:
            return
        for index in range(len(accumulators.shards)):
            context = context_of(self.state, index, accumulators.values[index], seed=self._seed, step=step)
            for part in accumulators.parts(index):
                accumulators.stage(index, part, method.increments(context[part]))
        accumulators.finish_staging()

    def _select(self, update: MaskUpdate) -> PendingUpdate:
        """Select the new packed masks, and record the update. Collective: every rank must call this."""
        state, started, sent = self.state, time.perf_counter(), self.state.comm.bytes_sent
        groups = state.groups(update)
        bits, weights = new_masks(state, self._method_at(update.step), update, groups, self._seed)
        seconds, sent = time.perf_counter() - started, state.comm.bytes_sent - sent
        num_pruned, num_grown, num_marked = sum(group.num_pruned for group in groups), None, 0
        regrown = state.masks.marks_after(bits)
        if state.regrows:
            num_pruned, num_grown, num_marked = self._count_regrown(bits, regrown)
        record = UpdateRecord(update, num_pruned, seconds, sent, num_grown)
        return PendingUpdate(record, bits, weights, regrown, num_marked)

    def _count_regrown(self, bits: Sequence[Tensor], regrown: Sequence[Tensor]) -> list[int]:
        """Return the numbers of pruned weights, of weights that grow back, and of marked weights after a mask update.

        Collective: every rank must call this.
        """
        grown = [new & ~old for new, old in zip(bits, self.state.masks.bits, strict=True)]
        num_kept, *counts = (sum(map(count_kept, rows)) for rows in (bits, grown, regrown))
        num_weights = sum(shard.numel for shard in self.state.layout.shards)
        return self.state.comm.all_reduce_sum(torch.tensor([num_weights - num_kept, *counts])).tolist()

    def _zero_newly_pruned(self, *_: Any) -> None:
        """Zero the newly pruned weights and update the others, before the optimizer's first step of a mask update.

        DeepSpeed steps the optimizer once per parameter group. The first call zeroes all groups, because a step does
        not change an entry whose weight, gradient and moments are zero.
        """
        if self._pending is None or self._zeroed:
            return
        layout = self.state.layout
        masks = self._pending.bits
        for index, moved in enumerate(self._pending.weights):
            layout.weight(index).copy_(moved)
        views = [(weight, *layout.states(index).values()) for index, weight in enumerate(layout.weights())]
        pairs = [(row, view) for row, each in zip(masks, views, strict=True) for view in each]
        apply_all_([row for row, _ in pairs], [view for _, view in pairs])
        self._zeroed = True
