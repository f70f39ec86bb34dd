"""Loss and time between two log lines."""

import time

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Adds up micro-batch losses on their device, and reads them only when asked."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._reset()

    def _reset(self) -> None:
        self._loss.zero_()
        self._num_losses = self._num_steps = 0
        self._started = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Count the loss of a micro-batch."""
        self._loss += loss.detach()
        self._num_losses += 1

    def step(self) -> None:
        """Count an optimizer step."""
        self._num_steps += 1

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
