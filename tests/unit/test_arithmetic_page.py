"""The page of arithmetic word problems: its methods fit the recipe, and its sentences follow from the runs."""

from pathlib import Path

import pytest

from dsprune.commands.suite.definition import load_suite
from dsprune.recipe import load_recipe
from dsprune.report.records import read_records
from tests.run_folders import write_run
from tests.scripts import SCRIPTS, check_follows_from_its_file, load

page = load("results/arithmetic/page")
STUDY = SCRIPTS / "results" / "arithmetic"


def test_every_method_fits_the_recipe() -> None:
    suite = load_suite(str(STUDY / "suite.yaml"))
    assert set(suite.methods) == {
        f"{name}{end}" for name in ("defaults", "SMC-Bench") for end in page.STARTS.values()
    }
    assert [f"{100 * target:g} %" for target in suite.sparsity] == list(page.TARGETS[1:])
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
    chosen = (name, f"seed={seed}", pruning, f'tracking.group="{method}"', "precision=fp32")
    write_run(folder, *chosen, score=score, device="cpu")


def test_the_page_says_what_the_runs_say_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    home, file = tmp_path / "runs", tmp_path / "runs.csv"
    write_scored(home / "mawps", "teacher", 0.0, 0.8)
    write_scored(home / "mawps", page.OURS, 0.8, 0.7)
    write_scored(home / "mawps", page.THEIRS, 0.8, 0.72)
    write_scored(home / "mawps", f"{page.OURS}, fine-tuned", 0.9, 0.78)
    write_scored(home / "mawps", f"{page.OURS}, fine-tuned", 0.9, 0.76, seed=2)
    write_scored(home / "mawps", "teacher", 0.0, 0.77, seed=2)
    write_scored(home / "asdiv-a", "teacher", 0.0, 0.9)
    write_scored(home / "asdiv-a", "teacher", 0.0, 0.6, seed=2)
    write_scored(home / "asdiv-a", f"{page.OURS}, fine-tuned", 0.9, 0.88)
    write_scored(home / "asdiv-a", f"{page.THEIRS}, fine-tuned", 0.9, 0.57, seed=2)
    page.main(home, file)
    assert len(read_records(file, page.Record)) == 10
    text = (tmp_path / "arithmetic.md").read_text()
    assert "| pretrained | dense | cpu, fp32 | 200 | 78.5 ± 2.1 (2) | - | - | - |" in text
    assert "| pretrained | defaults | cpu, fp32 | 200 | - | - | 70.0 | - |" in text
    assert "| pretrained | SMC-Bench | cpu, fp32 | 200 | - | - | 72.0 | - |" in text
    assert "| fine-tuned | defaults | cpu, fp32 | 200 | - | - | - | 77.0 ± 1.4 (2) |" in text
    sentences = " ".join(text.split())
    assert "- pretrained, 80 %: the defaults have 70.0 with " in sentences
    assert "all weights zero (cpu, fp32): the defaults are 2.0 points **behind**." in sentences
    mawps, asdiv = sentences.split("## MAWPS")[1].split("## ASDiv-A")
    assert "- fine-tuned, " not in mawps, "nothing to compare with"
    assert (
        "- fine-tuned, 90 %: compared with the dense runs that they start from, the defaults have -2.0 "
        in asdiv
    )
    assert "and SMC-Bench -3.0 with " in asdiv
    assert "the defaults are 1.0 points ahead." in asdiv
    assert "- MAWPS, fold 0, 80 %: defaults (2); SMC-Bench (2); defaults, fine-tuned (3)" in sentences
    assert "- SVAMP, 50 %: defaults (1); SMC-Bench (1); " in sentences
    page.main(tmp_path / "nothing", file)
    assert (tmp_path / "arithmetic.md").read_text() == text, "the page needs the file alone"


def test_the_page_in_the_repository_follows_from_its_file(tmp_path: Path) -> None:
    check_follows_from_its_file(page, "arithmetic.md", tmp_path)
