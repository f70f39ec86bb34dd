"""What one check of `dsprune doctor` says."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found, and the way out where something is wrong."""

    check: str
    level: Level
    message: str
