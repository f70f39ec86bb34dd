"""Durations in the formats of users and of Slurm."""

import pytest

from dsprune.errors import UserError
from dsprune.utils.text import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800)],
        *[("2:30:05", 9005), ("1-12:00:00", 129600), ("0", 0)],
    ],
)
def test_a_length_of_time(text: str, seconds: float) -> None:
    assert parse_duration("--stop-after", text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "1h 30m", "30m1h", "2:3", "-5"])
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"^--stop-after: value '{text}': write 90s, 30m, 1h30m"):
        parse_duration("--stop-after", text)
