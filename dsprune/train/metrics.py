"""The metrics of a training run: the meter that sums losses, and the logged values of steps and mask updates."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsprune.engine.engine import PruningEngine
from dsprune.errors import RunFailedError
from dsprune.ranks.collectives import all_reduce_
from dsprune.ranks.group import current_ranks

__all__ = ["Meter", "diverged", "step_metrics", "update_metrics"]

MAX_SKIPPED = 100
"""Largest number of consecutive steps that overflow. A loss scale of fp16 from 2**16 settles in about thirty."""


class Meter:
    """Sums the losses of applied steps on their device, and copies them to the host only in `read`.

    Args:
        device: device of the losses.
        names: the losses to sum; `loss` is minimized, the others are its parts.
    """

    def __init__(self, device: torch.device, names: Sequence[str] = ("loss",)) -> None:
        self._names = names
        self._losses = torch.zeros(len(names), device=device)
        self._losses_of_step = torch.zeros(len(names), device=device)
        self._num_losses_of_step = 0
        self._num_skipped = 0
        self._reset()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the losses of a micro-batch."""
        self._losses_of_step += torch.stack([losses[name].detach().float() for name in self._names])
        self._num_losses_of_step += 1

    def step(self, *, applied: bool) -> None:
        """Count an optimizer step. The losses of a step that was skipped on overflow are dropped.

        Raises:
            RunFailedError: the last `MAX_SKIPPED` steps were all skipped.
        """
        if applied:
            self._losses += self._losses_of_step
            self._num_losses += self._num_losses_of_step
        self._losses_of_step.zero_()
        self._num_losses_of_step = 0
        self._num_steps += 1
        self._num_skipped = 0 if applied else self._num_skipped + 1
        if self._num_skipped == MAX_SKIPPED:
            raise RunFailedError(
                f"{MAX_SKIPPED} steps in a row were skipped, with NaN or inf in their gradients: lower "
                f"learning_rate.peak, or use precision=bf16 instead of fp16; earlier checkpoints are good"
            )

    def read(self) -> dict[str, float]:
        """Return the mean losses over ranks and the seconds per step, since the last reading.

        Collective: every rank must call this.
        """
        losses = all_reduce_(self._losses / (self._num_losses * current_ranks().world_size))
        seconds = (time.perf_counter() - self._started) / self._num_steps
        self._reset()
        return {**dict(zip(self._names, losses.tolist(), strict=True)), "seconds_per_step": seconds}

    def is_finite(self) -> bool:
        """Return whether all losses since the last reading are finite. Collective: every rank must call this."""
        return bool(all_reduce_(self._losses.clone()).isfinite().all())

    def state(self) -> dict[str, Tensor]:
        """Return the sums of this rank, for a checkpoint."""
        return {"meter.losses": self._losses, "meter.num_losses": torch.tensor(self._num_losses)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the sums of a checkpoint."""
        self._losses.copy_(state["meter.losses"])
        self._num_losses = int(state["meter.num_losses"])

    def _reset(self) -> None:
        self._losses.zero_()
        self._num_losses = self._num_steps = 0
        self._started = time.perf_counter()


def step_metrics(engine: PruningEngine, meter: Meter, scale: Mapping[str, float]) -> dict[str, Any]:
    """Return the values to log for the steps since the last reading, with the rate of each pattern of `scale`.

    Collective: every rank must call this.

    Raises:
        RunFailedError: the loss is NaN or inf.
    """
    step = engine.applied_steps - 1  # just taken; the engine's own learning rate is already the next one
    multiplier = engine.timetable.lr_multiplier(step)
    values, norm = meter.read(), engine.get_global_grad_norm()  # None if DeepSpeed computes none
    if not math.isfinite(values["loss"]):
        raise RunFailedError(diverged(engine.applied_steps))
    return {
        **values,
        "learning_rate": engine.lr_scheduler.base_lrs[0] * multiplier,
        **{
            f"learning_rate/{pattern}": multiplier * factor * engine.config["optimizer"]["params"]["lr"]
            for pattern, factor in scale.items()
        },
        **({} if norm is None else {"gradient_norm": float(norm)}),
        "phase": engine.timetable.phase_at(step),
        **engine.sparsity(),
    }


def update_metrics(engine: PruningEngine) -> dict[str, Any]:
    """Return the values to log for a mask update. Collective: every rank must call this."""
    pruner = engine.pruner
    assert pruner is not None
    assert pruner.last_update is not None
    record, regrown = pruner.last_update, {}
    if record.num_regrown is not None:
        regrown = {"update_regrown": record.num_regrown, "share_regrown": pruner.state.share_regrown}
    return {
        "update_step": record.update.step,
        "update_sparsity": record.update.sparsity,
        "update_seconds": record.seconds,
        "update_bytes_sent": record.bytes_sent,
        **regrown,
        "mask_bytes": pruner.state.mask_bytes(),
        **engine.sparsity(),
        "tensor_sparsity": pruner.state.tensor_sparsity(),
    }


def diverged(step: int) -> str:
    """Return the message of a run whose loss is NaN or inf."""
    return (
        f"the loss is NaN or inf at step {step}: lower learning_rate.peak, lengthen its warm-up, or use "
        f"precision=bf16 instead of fp16; earlier checkpoints are good"
    )
