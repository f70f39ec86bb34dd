"""Loss and time between two log lines."""

import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dsprune.errors import RunFailedError

__all__ = ["Meter"]

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
        losses = self._losses / (self._num_losses * dist.get_world_size())
        dist.all_reduce(losses)
        seconds = (time.perf_counter() - self._started) / self._num_steps
        self._reset()
        return {**dict(zip(self._names, losses.tolist(), strict=True)), "seconds_per_step": seconds}

    def is_finite(self) -> bool:
        """Whether every loss since the last reading is a number. Collective: every rank must call this."""
        losses = self._losses.clone()
        dist.all_reduce(losses)
        return bool(losses.isfinite().all())

    def state(self) -> dict[str, Tensor]:
        """What this rank has added up."""
        return {"meter.losses": self._losses, "meter.num_losses": torch.tensor(self._num_losses)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on adding where `state` was taken."""
        self._losses.copy_(state["meter.losses"])
        self._num_losses = int(state["meter.num_losses"])
