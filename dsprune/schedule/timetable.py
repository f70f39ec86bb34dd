"""The timetable of a run: mask updates and learning rate, as pure functions of the step."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from math import ceil, cos, pi
from typing import Literal

from dsprune.recipe.rate import RateCurve

__all__ = ["MaskUpdate", "Phase", "Timetable"]

Phase = Literal["dense", "prune", "recover"]

MAX_STEPS = 10**12
"""Upper bound on the steps of a run."""

NUM_DRAWN = 2000
"""Number of steps at which to draw a learning rate that is not piecewise linear."""


@dataclass(frozen=True)
class MaskUpdate:
    """A mask update to `sparsity`, just before optimizer step `step` (counted from 0); at 0 all weights grow back."""

    step: int
    sparsity: float


@dataclass(frozen=True)
class Timetable:
    """Sparsity and learning rate at every step.

    All lengths are in optimizer steps. The timetable is stored in checkpoints, so that a resumed run keeps the
    timetable that it started with.

    Attributes:
        total_steps: length of the run in applied optimizer steps.
        steps_per_epoch: optimizer steps per epoch.
        warmup_steps: length of the linear rise of the learning rate.
        updates: the mask updates in order, at distinct steps; the last one reaches the target. Empty for dense
            fine-tuning.
        rewind: whether the learning rate returns to its peak at each mask update.
        dense_final: fraction of the first phase's peak at the first rewind.
        interval_final: fraction of the peak at the end of the interval between two rewinds.
        final: fraction of the peak at the end of the run.
        dense_peak: peak of the dense phase, as a fraction of the peak of the run.
        rewinds: further steps, in order, at which the learning rate returns to its peak.
        initial: fraction of the peak at the start of the warm-up.
        curve: how the learning rate rises and decays, `linear` or `cosine`.
        hold: number of steps for which each value of the learning rate is kept.
        decay_every: number of steps after which a step decay multiplies the learning rate by `decay_factor`; 0 = it
            decays along the curve.
        decay_factor: see `decay_every`.
    """

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    updates: tuple[MaskUpdate, ...]
    rewind: bool
    dense_final: float
    interval_final: float
    final: float
    dense_peak: float = 1.0
    rewinds: tuple[int, ...] = ()
    initial: float = 0.0
    curve: RateCurve = "linear"
    hold: int = 1
    decay_every: int = 0
    decay_factor: float = 0.5

    def __post_init__(self) -> None:
        """Check the values, which may come from a damaged file."""
        fractions = (self.dense_final, self.interval_final, self.final, self.initial, self.decay_factor)
        steps = [update.step for update in self.updates]
        sparsities = [update.sparsity for update in self.updates]
        if not 1 <= self.total_steps <= MAX_STEPS or self.steps_per_epoch < 1 or self.warmup_steps < 0:
            raise ValueError("the numbers of steps are not those of a run")
        if steps != sorted({*steps}) or not all(0 <= step <= self.total_steps for step in steps):
            raise ValueError("the mask updates are not in order within the run")
        if not all(0 <= step <= self.total_steps for step in self.rewinds):
            raise ValueError("the rewinds are not within the run")
        if not all(0 <= sparsity <= 1 for sparsity in sparsities) or sparsities[-1:] == [0]:
            raise ValueError("the sparsities of the mask updates are not between 0 and 1")
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError("the fractions of the learning rate are not between 0 and 1")
        if self.hold < 1 or self.decay_every < 0:
            raise ValueError("the learning rate is kept or decays over no steps")

    def progress(self, update: MaskUpdate) -> float:
        """Return the fraction of the target that a mask update reaches; tensors with their own targets use it too."""
        return update.sparsity / self.updates[-1].sparsity

    def update_at(self, step: int) -> MaskUpdate | None:
        """Return the mask update just before step `step`, or None."""
        update = self.next_update(step)
        return update if update is not None and update.step == step else None

    def next_update(self, step: int) -> MaskUpdate | None:
        """Return the first mask update at `step` or later, or None."""
        place = bisect_left(self.updates, step, key=lambda update: update.step)
        return self.updates[place] if place < len(self.updates) else None

    def is_at_target(self, num_steps: int) -> bool:
        """Return whether the last mask update is among the first `num_steps` steps; True without mask updates."""
        return self.next_update(num_steps) is None

    def update_progress(self, update: MaskUpdate) -> float:
        """Return the position of a mask update between the first (0) and the last (1); 1 for a single one."""
        first, last = self.updates[0].step, self.updates[-1].step
        return (update.step - first) / (last - first) if last > first else 1.0

    def sparsity_at(self, step: int) -> float:
        """Return the sparsity of the mask during step `step`; 0 before the first mask update."""
        num_past = self._num_past_updates(step)
        return self.updates[num_past - 1].sparsity if num_past else 0.0

    def phase_at(self, step: int) -> Phase:
        """Return `dense` while all weights are kept, `recover` from the last mask update on, and `prune` between."""
        num_past = self._num_past_updates(step)
        if self.sparsity_at(step) == 0:
            return "dense"
        return "recover" if num_past == len(self.updates) else "prune"

    def phases(self) -> list[tuple[Phase, int, int]]:
        """Return the name, first step and end of each phase of the run."""
        bounds = sorted({0, *(update.step for update in self.updates), self.total_steps})
        found: list[tuple[Phase, int, int]] = []
        for phase, group in groupby(pairwise(bounds), lambda span: self.phase_at(span[0])):
            spans = list(group)
            found.append((phase, spans[0][0], spans[-1][1]))
        return found

    def lr_multiplier(self, step: int) -> float:
        """Return the fraction of the peak learning rate for step `step`.

        With W warm-up steps and the linear curve, it is

        * `initial + (1 - initial) * step / W` while `step < W`, even at a mask update;
        * otherwise `1 + (f - 1) * (step - a) / (b - a)`, a decay over the segment `[a, b)` with `step`. The rewinds
          divide the run into segments; without rewinds the run is one segment. A segment ends at f, which is
          `dense_final` at the first rewind, `interval_final` at any other, and `final` at the end of the run. A
          segment that overlaps the warm-up starts at W. A step decay is
          `decay_factor ** ((step - a) // decay_every)` instead.

        The curve `cosine` has `(1 - cos(pi * x)) / 2` in place of each fraction x of steps. With `hold`, `step` is the
        last multiple of it in the segment, and b the last multiple before b. Before the first mask update all is
        scaled by `dense_peak`. After the end of the run it stays as it is.

        Examples:
            >>> timetable = Timetable(100, 10, 0, (MaskUpdate(10, 0.5), MaskUpdate(60, 0.9)), True, 0.5, 0.1, 0.0)
            >>> [timetable.lr_multiplier(step) for step in (0, 5, 10, 35, 60, 80, 100)]
            [1.0, 0.75, 1.0, 0.55, 1.0, 0.5, 0.0]
        """
        is_dense = bool(self.updates) and step < self.updates[0].step
        peak = self.dense_peak if is_dense else 1.0
        start, step, end, progress = self._place(step)
        if self.decay_every and step >= self.warmup_steps:
            num_decays = (min(step, self.total_steps - 1) - start) // self.decay_every
            return float(peak * self.decay_factor**num_decays)
        first, last = (self.initial, 1.0) if step < self.warmup_steps else (1.0, end)
        return peak * (first + (last - first) * self._share(progress))

    def height(self, step: int) -> float:
        """Return the height of the curve at a step: 1 at a peak, 0 at the start of a warm-up and the end of a decay."""
        _, step, _, progress = self._place(step)
        return self._share(progress) if step < self.warmup_steps else 1 - self._share(progress)

    def _place(self, step: int) -> tuple[int, int, float, float]:
        """Return the start of the decay, the step whose rate is kept, the decay's end, and the curve's progress."""
        start, stop, end = self._segment(step)
        if self.hold > 1:
            stop = start + (stop - start - 1) // self.hold * self.hold
            step = min(start + (step - start) // self.hold * self.hold, stop)
        if step < self.warmup_steps:
            return start, step, end, step / self.warmup_steps
        start = max(start, self.warmup_steps)
        return start, step, end, min(1.0, (step - start) / max(1, stop - start))

    def _share(self, progress: float) -> float:
        """Return the height of the curve."""
        return progress if self.curve == "linear" else (1 - cos(pi * progress)) / 2

    def lr_corners(self) -> list[int]:
        """Return the steps at which to draw the learning rate, which is (almost) linear between them."""
        turns = [
            *(update.step for update in self.updates),
            *self.rewinds,
            self.warmup_steps,
            self.total_steps,
        ]
        steps = {step for turn in turns for step in (turn - 1, turn) if 0 <= step <= self.total_steps}
        is_linear = self.curve == "linear" and self.hold == 1 and not self.decay_every
        between = () if is_linear else range(0, self.total_steps, ceil(self.total_steps / NUM_DRAWN))
        return sorted({0, *steps, *between})

    def _num_past_updates(self, step: int) -> int:
        return bisect_right(self.updates, step, key=lambda update: update.step)

    @cached_property
    def _turns(self) -> list[int]:
        """The steps at which the learning rate returns to its peak."""
        at_updates = [update.step for update in self.updates] if self.rewind else []
        return sorted({*at_updates, *self.rewinds})

    def _segment(self, step: int) -> tuple[int, int, float]:
        """Return the first step, the end and the final fraction of the decay at `step`."""
        turns = self._turns
        num_past = bisect_right(turns, step)
        start = turns[num_past - 1] if num_past else 0
        if num_past == len(turns):
            return start, self.total_steps, self.final
        return start, turns[num_past], self.interval_final if num_past else self.dense_final
