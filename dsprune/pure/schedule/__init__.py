"""When the mask grows and by how much, and what the learning rate does: pure functions of the clock."""

from dsprune.pure.schedule.build import build_timetable
from dsprune.pure.schedule.timetable import Event, Timetable

__all__ = ["Event", "Timetable", "build_timetable"]
