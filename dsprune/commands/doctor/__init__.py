"""The checks of `dsprune doctor`: `machine` and `software` return findings, `doctor` prints them."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check.
        level: `warn` = something may not work; `fail` = training does not work.
        message: what was found, and the way out unless the level is `ok`.
    """

    check: str
    level: Level
    message: str
