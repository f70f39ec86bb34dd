"""A short fuzz of settings; `scripts/fuzz.py` takes longer ones."""

from pathlib import Path

import pytest

from dsprune.testing.fuzz.converting import CONVERT_TARGETS
from dsprune.testing.fuzz.loop import fuzz
from dsprune.testing.fuzz.settings import SETTINGS_TARGETS

TARGETS = {**SETTINGS_TARGETS, **CONVERT_TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_absurd_settings_are_taken_with_sense_or_refused_in_a_line(tmp_path: Path, name: str) -> None:
    # About one in thirty overrides is accepted.
    tally = fuzz({name: TARGETS[name]}, tmp_path, inputs=200 if name == "override" else 100)
    assert tally.wrong == []
    assert set(tally.codes[name]) == {0, 2}
