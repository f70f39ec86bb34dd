"""Loss and time between two log lines."""

import time
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from dsprune.errors import RunFailedError

__all__ = ["Meter"]

MOST_SKIPPED = 100
"""Steps in a row that may overflow: a loss scale of fp16 that begins at 2**16 finds its place in thirty."""


class Meter:
    """Adds up the losses of applied steps on their device, and reads them only when asked."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._loss_of_step = torch.zeros((), device=device)
        self._num_losses_of_step = 0
        self._num_skipped = 0
        self._reset()

    def _reset(self) -> None:
        self._loss.zero_()
        self._num_losses = self._num_steps = 0
        self._started = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Count the loss of a micro-batch."""
        self._loss_of_step += loss.detach()
        self._num_losses_of_step += 1

    def step(self, *, applied: bool) -> None:
        """Count an optimizer step; the losses of one that was skipped on overflow are dropped.

        Raises:
            RunFailedError: every step is skipped, and has been for long.
        """
        if applied:
            self._loss += self._loss_of_step
            self._num_losses += self._num_losses_of_step
        self._loss_of_step.zero_()
        self._num_losses_of_step = 0
        self._num_steps += 1
        self._num_skipped = 0 if applied else self._num_skipped + 1
        if self._num_skipped == MOST_SKIPPED:
            raise RunFailedError(
                f"{MOST_SKIPPED} steps in a row were skipped, their gradients were not finite: lower "
                f"learning_rate.peak, or use precision=bf16 instead of fp16; the checkpoints of before are good"
            )

    def read(self) -> dict[str, float]:
        """Mean loss over ranks and seconds a step, since the last reading.

        Collective: every rank must call this.
        """
        loss = self._loss / self._num_losses
        dist.all_reduce(loss)
        seconds = time.perf_counter() - self._started
        numbers = {"loss": loss.item() / dist.get_world_size(), "seconds_per_step": seconds / self._num_steps}
        self._reset()
        return numbers

    def is_finite(self) -> bool:
        """Whether every loss since the last reading is a number. Collective: every rank must call this."""
        loss = self._loss.clone()
        dist.all_reduce(loss)
        return bool(loss.isfinite())

    def state(self) -> dict[str, Tensor]:
        """What this rank has added up."""
        return {"meter.loss": self._loss, "meter.num_losses": torch.tensor(self._num_losses)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on adding where `state` was taken."""
        self._loss.copy_(state["meter.loss"])
        self._num_losses = int(state["meter.num_losses"])
