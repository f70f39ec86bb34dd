"""Guards, which end a run if other code steps the optimizer or writes to the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor
from torch.optim import Optimizer

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.errors import RunFailedError
from dsprune.masks.bits import is_applied
from dsprune.ranks.collectives import Comm, world_comm
from dsprune.ranks.group import announce, current_ranks
from dsprune.zero.backward import watch_backward
from dsprune.zero.unused import drop_applied_gradients, drop_gradients

__all__ = ["BackwardGuard", "StepGuard", "WeightGuard"]


class StepGuard:
    """Ends a run whose base optimizer steps outside of `PruningEngine.step`, or without dsprune's hooks.

    The check is a hook of the base optimizer, which steps the fp32 master weights. So it works in every framework,
    whichever method of the engine is called.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._is_open = self._has_stepped = False
        optimizer.register_step_pre_hook(self._check)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Allow the optimizer to step while the block runs."""
        self._is_open, self._has_stepped = True, False
        try:
            yield
        finally:
            self._is_open = False

    def check_stepped(self, *, applied: bool) -> None:
        """Check that the hook ran in the last `open`, if the step was applied.

        Raises:
            RunFailedError: the optimizer has lost its hooks, so a mask update was not applied.
        """
        if applied and not self._has_stepped:
            raise RunFailedError(
                "optimizer: its step hooks were removed or replaced, and dsprune prunes in one of them: keep the "
                "hooks, and register yours beside them"
            )

    def _check(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._is_open:
            raise RunFailedError(
                f"optimizer: {type(optimizer).__name__}.step() was called outside of PruningEngine.step(), which would "
                "train without masks: call the step() of the engine, not that of the optimizer or of another class"
            )
        self._has_stepped = True


class BackwardGuard:
    """Ends a run with a second `backward` where DeepSpeed would keep the gradients of the last one alone.

    It also says if a checkpoint is saved between the micro-batches of a step.

    At the last micro-batch of a step, ZeRO stages 1 and 2 replace the gradients in each call, and stage 3 in each call
    after one forward pass. Stage 0 adds them.

    Args:
        engine: an initialized engine.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._holds_gradients, self._micro_batch = False, 0
        self._is_running = False

    def end_forward(self, outputs: Any) -> None:
        """Note a forward pass, after which stage 3 adds the gradients, and check what torch does with its outputs."""
        if self._engine.zero_optimization_stage() == 3:
            self._holds_gradients = False
        watch_backward(outputs, self._begin_by_torch)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Check a backward pass of the engine, which the block runs.

        Raises:
            RunFailedError: it would replace the gradients of the backward pass before it.
        """
        self._begin()
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    def _begin_by_torch(self) -> None:
        if not self._is_running:
            self._begin()

    def _begin(self) -> None:
        engine = self._engine
        if self._holds_gradients:
            raise RunFailedError(
                f"backward: called twice before engine.step() at ZeRO stage {engine.zero_optimization_stage()}, "
                f"where DeepSpeed would keep the gradients of the last call alone: call engine.backward once, on the "
                f"sum of the losses"
            )
        self._holds_gradients = engine.zero_optimization() and engine.is_gradient_accumulation_boundary()
        self._micro_batch = engine.micro_steps % engine.gradient_accumulation_steps() + 1

    def announce_unsaved(self) -> None:
        """Print that a checkpoint does not hold the gradients of a step that has begun, if one has."""
        if self._micro_batch:
            total = self._engine.gradient_accumulation_steps()
            announce(
                f"save_checkpoint: called after micro-batch {self._micro_batch} of {total}, whose gradients are lost: "
                "a run that resumes here continues without them: save after the optimizer step"
            )

    def end_step(self) -> None:
        """Drop the gradients that a step has applied."""
        self._holds_gradients, self._micro_batch = False, 0
        drop_applied_gradients(self._engine)

    def discard(self) -> None:
        """Drop the gradients of a step that is not taken."""
        self._holds_gradients, self._micro_batch = False, 0
        drop_gradients(self._engine)


class WeightGuard:
    """Ends a run if other code changes weights: pruned weights would grow back, and loaded ones would be lost.

    Args:
        state: the masks, and the weights that they belong to.
    """

    def __init__(self, state: PruningState) -> None:
        self._state = state
        self.accept()

    def accept(self) -> None:
        """Record the state of the weights after a step."""
        self._versions = self._read_versions()

    def check_written(self) -> None:
        """Check the weights of this rank if they were written to since `accept`.

        Raises:
            RunFailedError: a pruned weight is not zero, or a working copy differs from its rounded master weight.
        """
        if self._read_versions() != self._versions:
            self._check(Comm())

    def check(self) -> None:
        """Check all weights: a pass over them, and one message. Collective: every rank must call this.

        Raises:
            RunFailedError: as in `check_written`, on every rank; or the parameters of the module were replaced; or
                the replicas of ZeRO stage 0 differ.
        """
        self.check_module()
        self._check(self._state.comm)
        self._check_replicas()

    def check_working(self) -> None:
        """Check that pruned weights are zero in the working weights, which a script may have averaged.

        Collective: every rank must call this.

        Raises:
            RunFailedError: one is not, on every rank; or the parameters of the module were replaced.
        """
        self.check_module()
        layout = self._state.layout
        intact = [
            torch.stack([is_applied(bits.to(copy.device), copy) for copy in layout.copies(index)]).all()
            for index, bits in enumerate(self._state.masks.bits)
        ]
        self._end_unless([one.to(layout.device) for one in intact], self._state.comm)

    def check_module(self) -> None:
        """Check that the module still has the trainable parameters with which the engine was made, and their states.

        Raises:
            RunFailedError: it does not.
        """
        if self._state.layout.is_offloaded:
            raise RunFailedError(
                "engine: offload_states() has moved its states away: call engine.reload_states() before the next pass "
                "and before saving"
            )
        if (name := self._state.layout.find_replaced()) is not None:
            raise RunFailedError(
                f"{name}: this parameter was replaced, resized, added or unfrozen after the engine was made, so it is "
                f"neither trained nor pruned: change the module before deepspeed.initialize"
            )

    def check_moments(self) -> None:
        """Check that the moments of pruned weights are zero, before some of these weights grow back.

        Collective: every rank must call this.

        Raises:
            RunFailedError: on every rank, if one is not.
        """
        masks, layout = self._state.masks, self._state.layout
        changed = torch.zeros(len(masks.shards), dtype=torch.int32, device=layout.device)
        for index, bits in enumerate(masks.bits):
            for moment in layout.states(index).values():
                changed[index] += ~is_applied(bits, moment).to(layout.device)
        if (name := self._first(changed, self._state.comm)) is not None:
            raise RunFailedError(
                f"{name}: moments of its pruned weights are not zero, so some of these would grow back: something "
                f"outside of PruningEngine.step() has changed them: load moments by engine.load_checkpoint"
            )

    def _read_versions(self) -> list[tuple[int, ...]]:
        layout = self._state.layout
        return [layout.version(index) for index in range(len(layout.shards))]

    def _check(self, comm: Comm) -> None:
        """Check weights and working copies. Collective: every rank of `comm` must call this."""
        masks, layout = self._state.masks, self._state.layout
        intact = [
            is_applied(bits, layout.weight(index)).to(layout.device) & layout.is_rounded(index)
            for index, bits in enumerate(masks.bits)
        ]
        self._end_unless(intact, comm)

    def _check_replicas(self) -> None:
        """Check that all ranks have the same weights at stage 0. Collective: every rank must call this."""
        layout = self._state.layout
        if layout.group is not None or current_ranks().world_size == 1:
            return  # a partition of a weight is on one rank, from which all others gather it
        sums = torch.stack([weight.view(torch.int32).sum() for weight in layout.weights()])
        highest, lowest = world_comm(layout.device).all_reduce_max(torch.stack([sums, -sums]))
        if (name := self._first((highest != -lowest).int(), self._state.comm)) is not None:
            raise RunFailedError(
                f"{name}: its weights differ between the ranks: DeepSpeed averages the gradients of ZeRO stage 0 only "
                f"in engine.backward(loss): call it instead of loss.backward(), or use stage 1"
            )

    def _end_unless(self, intact: list[Tensor], comm: Comm) -> None:
        """End the run if a tensor has changed on a rank of `comm`. Collective: every rank of it must call this."""
        if (name := self._first((~torch.stack(intact)).int(), comm)) is not None:
            if self._has_nan(name, comm):
                raise RunFailedError(
                    f"{name}: its weights are NaN: a loss or a gradient was NaN or inf, and DeepSpeed applies such a "
                    f"step at ZeRO stage 0 in fp32: lower the learning rate or check the data"
                )
            raise RunFailedError(
                f"{name}: its weights were changed outside of PruningEngine.step(), by load_state_dict of the module "
                f"or of an optimizer, or by an assignment to them: load weights before deepspeed.initialize, or "
                f"by engine.load_checkpoint"
            )

    def _has_nan(self, name: str, comm: Comm) -> bool:
        """Return whether a tensor holds NaN on a rank of `comm`. Collective: every rank of it must call this."""
        layout = self._state.layout
        mine = [index for index, shard in enumerate(layout.shards) if shard.tensor.name == name]
        count = sum(int(layout.weight(index).isnan().sum()) for index in mine)
        return bool(comm.all_reduce_sum(torch.tensor(count)))

    def _first(self, changed: Tensor, comm: Comm) -> str | None:
        """Return the first tensor that has changed on a rank of `comm`. Collective: every rank of it must call this."""
        counts = comm.all_reduce_sum(changed).tolist()
        pairs = zip(self._state.layout.tensors, counts, strict=True)
        return next((tensor.name for tensor, count in pairs if count), None)
