"""The timetable of a run: what happens at which step, as pure functions of the clock."""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

__all__ = ["Event", "Phase", "Timetable"]

Phase = Literal["dense", "prune", "recover"]


@dataclass(frozen=True)
class Event:
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
        events: in order, at distinct steps; the last one is on the target. Empty for dense fine-tuning.
        rewind: whether the learning rate goes back to its peak at each event.
        dense_final: multiplier at the end of the dense phase.
        interval_final: multiplier at the end of the interval between two events.
        final: multiplier at the end of the run.
    """

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    events: tuple[Event, ...]
    rewind: bool
    dense_final: float
    interval_final: float
    final: float

    def progress(self, event: Event) -> float:
        """Fraction of the target that the event reaches; a tensor with its own target keeps pace with it."""
        return event.sparsity / self.events[-1].sparsity

    def event_at(self, clock: int) -> Event | None:
        """The event that comes before step `clock`, if any."""
        return next((event for event in self.events if event.step == clock), None)

    def sparsity_at(self, clock: int) -> float:
        """Sparsity of the mask in force while step `clock` is taken; 0 before the first event."""
        num_past = self._num_past_events(clock)
        return self.events[num_past - 1].sparsity if num_past else 0.0

    def phase_at(self, clock: int) -> Phase:
        """`dense` before the first event, `recover` from the last one on, `prune` between."""
        num_past = self._num_past_events(clock)
        if num_past == 0:
            return "dense"
        return "recover" if num_past == len(self.events) else "prune"

    def phases(self) -> list[tuple[Phase, int, int]]:
        """Name, first step and end of each phase that the run has."""
        steps = [event.step for event in self.events]
        bounds = sorted({0, *steps[:1], *steps[-1:], self.total_steps})
        return [(self.phase_at(start), start, end) for start, end in pairwise(bounds)]

    def lr_multiplier(self, clock: int) -> float:
        """Fraction of the peak learning rate for step `clock`.

        More precisely, with W warm-up steps:

        * `clock / W` while `clock < W`, whatever happens meanwhile;
        * else `1 + (f - 1) * (clock - a) / (b - a)`, a linear decay over the segment `[a, b)` that `clock` is
          in. The events cut the run into segments; without rewinds it is one. A segment ends at f, which is
          `dense_final` at the first event, `interval_final` at any other, and `final` at the end of the run.
          A segment that the warm-up reaches into starts at W.

        Past the end of the run it stays at `final`.

        Examples:
            >>> timetable = Timetable(100, 10, 0, (Event(10, 0.5), Event(60, 0.9)), True, 0.5, 0.1, 0.0)
            >>> [timetable.lr_multiplier(clock) for clock in (0, 5, 10, 35, 60, 80, 100)]
            [1.0, 0.75, 1.0, 0.55, 1.0, 0.5, 0.0]
        """
        if clock < self.warmup_steps:
            return clock / self.warmup_steps
        start, stop, end = self._segment(clock)
        start = max(start, self.warmup_steps)
        progress = min(1.0, (clock - start) / (stop - start))
        return 1 + (end - 1) * progress

    def lr_corners(self) -> list[int]:
        """Clocks between which the learning rate is a straight line: it jumps only from one to the next."""
        turns = [event.step for event in self.events] + [self.warmup_steps, self.total_steps]
        clocks = {clock for turn in turns for clock in (turn - 1, turn) if 0 <= clock <= self.total_steps}
        return sorted({0, *clocks})

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` makes an equal timetable of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Timetable":
        """Make the timetable that `to_dict` wrote down."""
        return cls(**{**values, "events": tuple(Event(**event) for event in values["events"])})

    def _num_past_events(self, clock: int) -> int:
        return bisect_right(self.events, clock, key=lambda event: event.step)

    def _segment(self, clock: int) -> tuple[int, int, float]:
        """First step, end and final multiplier of the decay that `clock` is in."""
        if not self.rewind:
            return 0, self.total_steps, self.final
        num_past = self._num_past_events(clock)
        start = self.events[num_past - 1].step if num_past else 0
        if num_past == len(self.events):
            return start, self.total_steps, self.final
        return start, self.events[num_past].step, self.interval_final if num_past else self.dense_final
