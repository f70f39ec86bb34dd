"""The results page: its recipes are valid, and its sentences follow from the runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dsprune.commands.analyze.result import Analysis, Finding, write_analysis
from dsprune.commands.suite.definition import load_suite
from dsprune.recipe import load_recipe
from tests.run_folders import write_run
from tests.scripts import SCRIPTS, load, written_page

page = load("results/page")
RESULTS = SCRIPTS / "results"
DISTILLED = "distillation={teacher: teacher, temperature: 2.0}"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_sound(path: Path) -> None:
    assert load_recipe(str(path)).budget.steps


def test_the_suite_names_recipes_that_are_there() -> None:
    suite = load_suite(str(RESULTS / "harness.yaml"))
    assert all((SCRIPTS.parent / recipe).is_file() for recipe in suite.recipes.values())


def write_study(folder: Path) -> None:
    """All guidelines against SMC-Bench's schedule at two sparsities, two seeds at one of them, and a variant."""
    groups = {page.OURS: (DISTILLED, {0.9: (0.80, 0.82), 0.97: (0.75,)}), page.SMC: ("", {0.9: (0.70, 0.72)})}
    for group, (values, scores) in groups.items():
        for sparsity, seeds in scores.items():
            for seed, score in enumerate(seeds, start=1):
                name = f"{group.split()[0]}-{sparsity}-{seed}"
                settings = [
                    f"name={name}",
                    f"seed={seed}",
                    f"pruning.sparsity={sparsity}",
                    *filter(None, [values]),
                ]
                write_run(folder, *settings, f'tracking.group="{group}"', score=score)
    uniform = ("name=uniform", "seed=1", "pruning.scope=uniform", DISTILLED, 'tracking.group="uniform scope"')
    write_run(folder, *uniform, score=0.81)
    write_run(folder, "name=dense", "seed=1", "pruning=null", "tracking.group=dense", score=0.9)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[], str]:
    """Writes the page, and returns it."""
    return partial(written_page, page, "results-0.1.md", tmp_path)


def test_the_page_says_what_the_runs_say(tmp_path: Path, written: Callable[[], str]) -> None:
    write_study(tmp_path / "sentiment")
    text = written()
    assert "| all guidelines | 81.0 ± 1.4 (2) | 75.0 |" in text
    assert (
        "At 90 % all guidelines are 10.0 points ahead of SMC-Bench's schedule on the same weights, more than the "
        "larger standard deviation over seeds, 1.4." in text
    )
    assert "| uniform scope | 81.0 | +1.0 |" in text
    assert "Better than all guidelines together: uniform scope." in text
    assert f"| {page.SMC} | 71.0 ± 1.4 (2) | -10.0 |" in text
    assert "Behind by less" not in text
    assert "90.0; the teacher: -." in text
    assert "## Cost and savings of each component" not in text, "none was analysed"
    assert "BANKING77" not in text, "none was run"
    assert "## The tasks of the benchmarks" not in text, "none was run"
    assert (tmp_path / "results-sentiment.svg").is_file()


def test_every_study_and_task_that_was_run_is_on_the_page(tmp_path: Path, written: Callable[[], str]) -> None:
    for folder in ("sentiment", "banking77", "tasks/svamp", "tasks/xquad"):
        write_study(tmp_path / folder)
    for name in ("banking77-teacher", "svamp-dense", "xquad-dense"):
        write_run(tmp_path, f"name={name}", "pruning=null", score=0.88)
    (tmp_path / "components").mkdir()
    head = Finding(
        name="head", patterns=("*classifier.weight",), num_weights=600, flops=1200, is_prunable=False,
        scores={0.5: 0.88, 0.9: 0.6},
    )  # fmt: skip
    analysis = Analysis(
        recipe="r", model="m", task="t", metric="accuracy", dense=0.9, num_examples=100, length=64, target=0.9,
        num_weights=1000, flops=2400, weight_bytes=4, recovery_steps=0, findings=(head,), layers=(), origin="",
    )  # fmt: skip
    write_analysis(analysis, tmp_path / "components")
    text = written()
    assert "| head | 600 | 60.00 % | 50.00 % |" in text
    assert (
        text.index("## Movie reviews") < text.index("## Questions to a bank") < text.index("## The tasks of")
    )
    assert "90.0; the teacher: 88.0." in text
    assert (
        "| task | metric | steps | start | dense | ours, 90 % | SMC, 90 % | ours, 97 % | SMC, 97 % |" in text
    )
    assert "| svamp | accuracy | None | 88.0 | 90.0 | 81.0 ± 1.4 (2) | 71.0 ± 1.4 (2) | 75.0 | - |" in text
    assert (tmp_path / "results-banking77.svg").is_file()
