"""What is measured of a run between two log lines, and what is logged."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsprune.engine.engine import PruningEngine
from dsprune.errors import RunFailedError
from dsprune.ranks.collectives import all_reduce_
from dsprune.ranks.ranks import current_ranks

__all__ = ["Meter", "step_metrics", "update_metrics"]

MOST_SKIPPED = 100
"""Steps in a row that may overflow: a loss scale of fp16 that begins at 2**16 finds its place in thirty."""


class Meter:
    """Adds up the losses of applied steps on their device, and reads them only when asked.

    Args:
        device: where the losses are.
        names: what is added up; `loss` is what is trained on, the others are its parts.
    """

    def __init__(self, device: torch.device, names: Sequence[str] = ("loss",)) -> None:
        self._names = names
        self._losses = torch.zeros(len(names), device=device)
        self._losses_of_step = torch.zeros(len(names), device=device)
        self._num_losses_of_step = 0
        self._num_skipped = 0
        self._reset()

    def _reset(self) -> None:
        self._losses.zero_()
        self._num_losses = self._num_steps = 0
        self._started = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the losses of a micro-batch."""
        self._losses_of_step += torch.stack([losses[name].detach().float() for name in self._names])
        self._num_losses_of_step += 1

    def step(self, *, applied: bool) -> None:
        """Count an optimizer step; the losses of one that was skipped on overflow are dropped.

        Raises:
            RunFailedError: every step is skipped, and has been for long.
        """
        if applied:
            self._losses += self._losses_of_step
            self._num_losses += self._num_losses_of_step
        self._losses_of_step.zero_()
        self._num_losses_of_step = 0
        self._num_steps += 1
        self._num_skipped = 0 if applied else self._num_skipped + 1
        if self._num_skipped == MOST_SKIPPED:
            raise RunFailedError(
                f"{MOST_SKIPPED} steps in a row were skipped, their gradients were not finite: lower "
                f"learning_rate.peak, or use precision=bf16 instead of fp16; the checkpoints of before are good"
            )

    def read(self) -> dict[str, float]:
        """Mean losses over ranks and seconds a step, since the last reading.

        Collective: every rank must call this.
        """
        losses = all_reduce_(self._losses / (self._num_losses * current_ranks().world_size))
        seconds = (time.perf_counter() - self._started) / self._num_steps
        self._reset()
        return {**dict(zip(self._names, losses.tolist(), strict=True)), "seconds_per_step": seconds}

    def is_finite(self) -> bool:
        """Whether every loss since the last reading is a number. Collective: every rank must call this."""
        return bool(all_reduce_(self._losses.clone()).isfinite().all())

    def state(self) -> dict[str, Tensor]:
        """What this rank has added up."""
        return {"meter.losses": self._losses, "meter.num_losses": torch.tensor(self._num_losses)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on adding where `state` was taken."""
        self._losses.copy_(state["meter.losses"])
        self._num_losses = int(state["meter.num_losses"])


def step_metrics(engine: PruningEngine, meter: Meter) -> dict[str, Any]:
    """What is logged of the steps since the last time. Collective: every rank must call this.

    Raises:
        RunFailedError: the loss is not a number any more.
    """
    taken = engine.applied_steps - 1  # the engine's own learning rate is the next step's already
    numbers = meter.read()
    if not math.isfinite(numbers["loss"]):
        raise RunFailedError(diverged(engine.applied_steps))
    return {
        **numbers,
        "learning_rate": engine.lr_scheduler.base_lrs[0] * engine.timetable.lr_multiplier(taken),
        "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
        "phase": engine.timetable.phase_at(taken),
        **engine.sparsity(),
    }


def update_metrics(engine: PruningEngine) -> dict[str, Any]:
    """What is logged of a mask update. Collective: every rank must call this."""
    pruner = engine.pruner
    assert pruner is not None
    assert pruner.last_update is not None
    return {
        "update_sparsity": pruner.last_update.update.sparsity,
        "update_seconds": pruner.last_update.seconds,
        "update_bytes_sent": pruner.last_update.bytes_sent,
        "mask_bytes": pruner.state.mask_bytes(),
        **engine.sparsity(),
        "tensor_sparsity": pruner.state.tensor_sparsity(),
    }


def diverged(step: int) -> str:
    """What is said when the loss is not a number any more."""
    return (
        f"the loss is not a finite number at step {step}: lower learning_rate.peak, lengthen its warm-up, or "
        f"use precision=bf16 instead of fp16; the checkpoints of before are good"
    )
