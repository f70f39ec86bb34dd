"""A user's script prunes to its target, on two ranks."""

import contextlib
import io
import os
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from dsprune.ranks.collectives import Comm
from dsprune.testing.pool import RankPool

SCRIPT = Path(__file__).with_name("ten_lines.py")
EXPECTED = f"sparsity {round(0.8 * 3 * 15 * 15) / (3 * 15 * 15)} step 24"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "recipe.yaml"
    sections = {
        "budget": {"epochs": 4, "batch": 8},
        "pruning": {"sparsity": 0.8, "start": "1 epoch", "end": "3 epochs", "updates": 3},
        "learning_rate": {"peak": 0.01},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def run_script(comm: Comm, *arguments: str) -> str:
    """The output of the script, on a rank that has already started."""
    os.environ.update(LOCAL_RANK=str(comm.rank))
    sys.argv = [str(SCRIPT), *arguments]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return printed.getvalue()


@pytest.mark.parametrize("stage", [1, 3])
def test_the_script_reaches_its_target_exactly(two_ranks: RankPool, recipe: Path, stage: int) -> None:
    for printed in two_ranks.run(2, run_script, str(recipe), f"zero{stage}"):
        assert printed.splitlines().count(EXPECTED) == 1
