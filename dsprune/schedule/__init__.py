"""The schedule of sparsity and learning rate, as pure functions of the step."""

from dsprune.schedule.build import build_timetable, recipe_timetable
from dsprune.schedule.timetable import MaskUpdate, Timetable

__all__ = ["MaskUpdate", "Timetable", "build_timetable", "recipe_timetable"]
