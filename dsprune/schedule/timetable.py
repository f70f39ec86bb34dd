"""The timetable of a run: what happens at which step, as pure functions of the step."""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

__all__ = ["MaskUpdate", "Phase", "Timetable"]

Phase = Literal["dense", "prune", "recover"]


@dataclass(frozen=True)
class MaskUpdate:
    """The mask grows to `sparsity` just before optimizer step `step` is taken (steps count from 0)."""

    step: int
    sparsity: float


@dataclass(frozen=True)
class Timetable:
    """Sparsity and learning rate at every step.

    Epochs and percentages are steps by now. It is stored in checkpoints, so that a resumed run keeps the
    timetable that it began with.

    Attributes:
        total_steps: length of the run in applied optimizer steps.
        steps_per_epoch: of those, in one epoch.
        warmup_steps: length of the linear rise of the learning rate.
        mask updates: in order, at distinct steps; the last one is on the target. Empty for dense fine-tuning.
        rewind: whether the learning rate goes back to its peak at each mask update.
        dense_final: multiplier at the end of the dense phase.
        interval_final: multiplier at the end of the interval between two mask updates.
        final: multiplier at the end of the run.
    """

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    updates: tuple[MaskUpdate, ...]
    rewind: bool
    dense_final: float
    interval_final: float
    final: float

    def progress(self, update: MaskUpdate) -> float:
        """Fraction of the target that the mask update reaches; a tensor with its own target keeps pace with it."""
        return update.sparsity / self.updates[-1].sparsity

    def update_at(self, step: int) -> MaskUpdate | None:
        """The mask update that comes before step `step`, if any."""
        return next((update for update in self.updates if update.step == step), None)

    def sparsity_at(self, step: int) -> float:
        """Sparsity of the mask in force while step `step` is taken; 0 before the first mask update."""
        num_past = self._num_past_updates(step)
        return self.updates[num_past - 1].sparsity if num_past else 0.0

    def phase_at(self, step: int) -> Phase:
        """`dense` before the first mask update, `recover` from the last one on, `prune` between."""
        num_past = self._num_past_updates(step)
        if num_past == 0:
            return "dense"
        return "recover" if num_past == len(self.updates) else "prune"

    def phases(self) -> list[tuple[Phase, int, int]]:
        """Name, first step and end of each phase that the run has."""
        steps = [update.step for update in self.updates]
        bounds = sorted({0, *steps[:1], *steps[-1:], self.total_steps})
        return [(self.phase_at(start), start, end) for start, end in pairwise(bounds)]

    def lr_multiplier(self, step: int) -> float:
        """Fraction of the peak learning rate for step `step`.

        More precisely, with W warm-up steps:

        * `step / W` while `step < W`, whatever happens meanwhile;
        * else `1 + (f - 1) * (step - a) / (b - a)`, a linear decay over the segment `[a, b)` that `step` is
          in. The mask updates cut the run into segments; without rewinds it is one. A segment ends at f, which is
          `dense_final` at the first mask update, `interval_final` at any other, and `final` at the end of the run.
          A segment that the warm-up reaches into starts at W.

        Past the end of the run it stays at `final`.

        Examples:
            >>> timetable = Timetable(100, 10, 0, (MaskUpdate(10, 0.5), MaskUpdate(60, 0.9)), True, 0.5, 0.1, 0.0)
            >>> [timetable.lr_multiplier(step) for step in (0, 5, 10, 35, 60, 80, 100)]
            [1.0, 0.75, 1.0, 0.55, 1.0, 0.5, 0.0]
        """
        if step < self.warmup_steps:
            return step / self.warmup_steps
        start, stop, end = self._segment(step)
        start = max(start, self.warmup_steps)
        progress = min(1.0, (step - start) / (stop - start))
        return 1 + (end - 1) * progress

    def lr_corners(self) -> list[int]:
        """Clocks between which the learning rate is a straight line: it jumps only from one to the next."""
        turns = [update.step for update in self.updates] + [self.warmup_steps, self.total_steps]
        steps = {step for turn in turns for step in (turn - 1, turn) if 0 <= step <= self.total_steps}
        return sorted({0, *steps})

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` makes an equal timetable of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Timetable":
        """Return the timetable that `to_dict` wrote down; version 0.1 called its updates `events`."""
        values = dict(values)
        updates = values.pop("events", ()) or values.pop("updates", ())
        return cls(**values, updates=tuple(MaskUpdate(**update) for update in updates))

    def _num_past_updates(self, step: int) -> int:
        return bisect_right(self.updates, step, key=lambda update: update.step)

    def _segment(self, step: int) -> tuple[int, int, float]:
        """First step, end and final multiplier of the decay that `step` is in."""
        if not self.rewind:
            return 0, self.total_steps, self.final
        num_past = self._num_past_updates(step)
        start = self.updates[num_past - 1].step if num_past else 0
        if num_past == len(self.updates):
            return start, self.total_steps, self.final
        return start, self.updates[num_past].step, self.interval_final if num_past else self.dense_final
