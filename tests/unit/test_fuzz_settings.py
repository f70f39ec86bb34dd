"""A short fuzz of settings; `scripts/fuzz.py` takes longer ones."""

from pathlib import Path

import pytest

from dsprune.testing.fuzz.loop import fuzz
from dsprune.testing.fuzz.settings import SETTINGS_TARGETS


@pytest.mark.parametrize("name", SETTINGS_TARGETS)
def test_absurd_settings_are_taken_with_sense_or_refused_in_a_line(tmp_path: Path, name: str) -> None:
    tally = fuzz({name: SETTINGS_TARGETS[name]}, tmp_path, inputs=100)
    assert tally.wrong == []
    assert set(tally.codes[name]) == {0, 2}
