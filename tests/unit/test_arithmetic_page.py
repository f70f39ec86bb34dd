"""The page of arithmetic word problems: its methods fit the recipe, and its sentences follow from the runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dsprune.commands.suite.definition import load_suite
from dsprune.recipe import load_recipe
from tests.run_folders import write_run
from tests.scripts import SCRIPTS, load, written_page

page = load("results/arithmetic/page")
STUDY = SCRIPTS / "results" / "arithmetic"


def test_every_method_fits_the_recipe() -> None:
    suite = load_suite(str(STUDY / "suite.yaml"))
    assert set(suite.methods) == {
        f"{name}{end}" for name in ("defaults", "SMC-Bench") for end in page.STARTS.values()
    }
    assert suite.sparsity == page.TARGETS
    for name in suite.methods:
        changes = list(suite.changes(name).set)
        for placeholder, value in (("{sparsity}", "0.9"), ("{teacher}", "T"), ("{store}", "S")):
            changes = [change.replace(placeholder, value) for change in changes]
        recipe = load_recipe("smc-arithmetic", changes)
        assert recipe.pruning is not None
        assert (recipe.distillation is None) == name.startswith(page.THEIRS)


def write_scored(folder: Path, method: str, target: float, score: float, seed: int = 1) -> None:
    name = f"name={method.replace(', ', '-')}-{target}-{seed}"
    pruning = f"pruning.sparsity={target}" if target else "pruning=null"
    write_run(folder, name, f"seed={seed}", pruning, f'tracking.group="{method}"', score=score)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[], str]:
    """Writes the page, and returns it."""
    return partial(written_page, page, "arithmetic.md", tmp_path)


def test_the_page_says_what_the_runs_say_and_what_is_missing(
    tmp_path: Path, written: Callable[[], str]
) -> None:
    write_scored(tmp_path / "mawps", page.DENSE, 0.0, 0.8)
    write_scored(tmp_path / "mawps", page.OURS, 0.8, 0.7)
    write_scored(tmp_path / "mawps", page.THEIRS, 0.8, 0.72)
    write_scored(tmp_path / "mawps", f"{page.OURS}, fine-tuned", 0.9, 0.78)
    write_scored(tmp_path / "mawps", f"{page.OURS}, fine-tuned", 0.9, 0.76, seed=2)
    text = written()
    assert "Dense: 80.0 (200 steps" in text
    assert "| pretrained | defaults | 200 | - | 70.0 | - |" in text
    assert "| pretrained | SMC-Bench | 200 | - | 72.0 | - |" in text
    assert "| fine-tuned | defaults | 200 | - | - | 77.0 ± 1.4 (2) |" in text
    assert (
        "- pretrained, 80 %: compared with dense, the defaults have -10.0 points and SMC-Bench -8.0, with "
        in text
    )
    assert "of all weights zero: the defaults are 2.0 **behind**." in text
    assert "- fine-tuned, " not in text.split("## Not run")[0], "nothing to compare with"
    assert "- MAWPS, fold 0, defaults at 50 %; SMC-Bench at 50 %; " in text
    assert "- MAWPS, fold 0, 1 of three seeds." in text
    assert "- SVAMP, all of it." in text
