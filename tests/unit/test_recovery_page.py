"""The page of recovered accuracy: its recipes are valid, and its sentences follow from the runs."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from dsprune.commands.suite.definition import load_suite
from dsprune.recipe import load_recipe
from dsprune.report.records import add_records, read_records
from tests.run_folders import write_run
from tests.scripts import SCRIPTS, check_follows_from_its_file, load

page = load("results/recovery/page")
split = load("results/recovery/split")
STUDY = SCRIPTS / "results" / "recovery"
DIVIDED = ("banking77", "movie-reviews", "clinc150", "trec")
"""The tasks with a validation and a test split: those on which choices were made, and the held-out ones."""

UNDIVIDED = {"mawps": None, "xquad": "data/benchmarks/xquad/validation.json"}
"""The validation data of the others, on which nothing was chosen."""

SETTING = "cpu, fp32"


@pytest.mark.parametrize("task", page.TASKS)
def test_every_method_fits_every_recipe(task: str) -> None:
    for suite in (STUDY / "suite.yaml", STUDY.parent / "methods" / "suite.yaml"):
        for method in load_suite(str(suite)).methods.values():
            changes = [change.replace("{sparsity}", "0.9") for change in method.set]
            recipe = load_recipe(str(STUDY / f"{task}.yaml"), changes)
            part = f"data/recovery/{task}/validation.csv" if task in DIVIDED else UNDIVIDED[task]
            assert recipe.task.validation == part


def test_the_parts_are_disjoint_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("HOME", "made"), ("REVIEWS", "reviews"), ("BANKING", "banking")):
        monkeypatch.setattr(split, name, tmp_path / folder)
    for folder, name, rows in (
        ("reviews", "train", 30), ("reviews", "validation", 5), ("banking", "train", 4), ("banking", "test", 8),
    ):  # fmt: skip
        path = tmp_path / folder / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("text,label\n" + "".join(f'"{name}, {row}",{row}\n' for row in range(rows)))
    questions = {
        "train": ["first", "a"],
        "val": ["second", "a"],
        "test": ["third", "b"],
        "oos_test": ["other", "oos"],
    }
    monkeypatch.setattr(split, "CLINC", tmp_path / "data_full.json")
    split.CLINC.write_text(json.dumps({part: [question] for part, question in questions.items()}))
    monkeypatch.setattr(split, "TREC", tmp_path / "trec")
    split.TREC.mkdir()
    for name, rows in (("train", 20), ("test", 3)):
        text = "".join(f"{row % 6} {name}, {row} ?\n" for row in range(rows))
        (split.TREC / f"TREC.{name}.all").write_text(text)
    split.main()
    parts = {path.relative_to(tmp_path / "made").as_posix(): path.read_text().splitlines()[1:]
             for path in (tmp_path / "made").rglob("*.csv")}  # fmt: skip
    assert {name: len(rows) for name, rows in parts.items()} == {
        "movie-reviews/train.csv": 27, "movie-reviews/validation.csv": 3, "movie-reviews/test.csv": 5,
        "banking77/train.csv": 4, "banking77/validation.csv": 4, "banking77/test.csv": 4,
        "clinc150/train.csv": 1, "clinc150/validation.csv": 1, "clinc150/test.csv": 1,
        "trec/train.csv": 18, "trec/validation.csv": 2, "trec/test.csv": 3,
    }  # fmt: skip
    assert parts["trec/validation.csv"] == ['"train, 0 ?",description', '"train, 10 ?",location']
    for task in DIVIDED:
        rows = [row for name, rows in parts.items() if name.startswith(task) for row in rows]
        assert len(set(rows)) == len(rows)


def write_tested(
    folder: Path, method: str, seed: int, target: float, test: float, validation: float = 0.5
) -> None:
    """A run with different accuracies on the validation and the test split."""
    pruning = f"pruning.sparsity={target}" if target else "pruning=null"
    name = f"name={method.replace(',', '').replace(' ', '-')}-{target}-{seed}"
    run = write_run(
        folder, name, f"seed={seed}", pruning, f'tracking.group="{method}"', score=validation, device="cpu"
    )
    (run / page.TEST).write_text(json.dumps({"accuracy": test}))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Writes the page from the runs of a folder, and returns it."""
    monkeypatch.setattr(page, "DOCS", tmp_path)

    def write() -> str:
        page.main(tmp_path, tmp_path / "runs.csv")
        return (tmp_path / "results.md").read_text()

    return write


def test_the_page_says_what_the_test_part_says(tmp_path: Path, written: Callable[[], str]) -> None:
    for epochs, dense, scores in (("1", 0.92, (0.86, 0.88)), ("3", 0.93, (0.90,))):
        folder = tmp_path / "banking77" / f"fine-tuned-{epochs}"
        write_tested(folder, page.DENSE, 1, 0.0, dense)
        for seed, score in enumerate(scores, start=1):
            write_tested(folder, page.OURS, seed, 0.9, score)
    one = tmp_path / "banking77" / "fine-tuned-1"
    write_tested(one, page.OURS, 1, 0.97, 0.8)
    write_tested(one, "one decay", 1, 0.9, 0.89)
    write_tested(one, page.MAGNITUDE, 1, 0.9, 0.85)
    write_run(one, "name=untested", "pruning.sparsity=0.8", 'tracking.group="defaults"')
    text = written()
    assert "| epochs | method | setting | dense | 90 % | 97 % |" in text
    assert (
        f"| 1 | dense | {SETTING} | 92.0 | - | - |\n| 1 | defaults | {SETTING} | - | 87.0 ± 1.4 (2) | 80.0 |"
        in text
    )
    for cell, distance, goal in (("1 epoch", "5.00", 3), ("3 epochs", "3.00", 2)):
        assert (
            f"- 90 % after {cell} ({SETTING}): {distance} points below dense at the same budget; "
            f"the goal of {goal} is missed." in text
        )
    assert f"- 90 % after 1 epoch ({SETTING}): magnitude +2.0, one decay -2.0 **behind**." in text
    assert "80 %, " not in text, "a run without a test accuracy is left out"
    assert "Movie reviews, positive" not in text, "none was run"
    assert (tmp_path / "results.svg").is_file()


def test_a_goal_that_is_reached_is_said(tmp_path: Path, written: Callable[[], str]) -> None:
    for task in DIVIDED:
        write_tested(tmp_path / task / "fine-tuned-1", page.DENSE, 1, 0.0, 0.92)
        write_tested(tmp_path / task / "fine-tuned-1", page.OURS, 1, 0.9, 0.9)
        write_tested(tmp_path / task / "pretrained-1", page.OURS, 1, 0.9, 0.9)
    write_tested(tmp_path / "starts", "banking77", 1, 0.0, 0.905)
    (tmp_path / "starts" / "banking77-0.0-1").rename(tmp_path / "starts" / "banking77")
    text = written()
    assert text.count("2.00 points below dense at the same budget; the goal of 3 is reached.") == len(DIVIDED)
    assert text.count("0.50 points below the fine-tuned model; the goal of 3 is reached.") == 1
    assert text.count(", from the pretrained model\n") == len(DIVIDED)
    assert f"The start, which is the teacher too: 90.5 ({SETTING})." in text
    assert "Lead of the defaults" not in text, "nothing else was run"
    write_tested(tmp_path / "banking77" / "pretrained-1", page.DENSE, 1, 0.0, 0.89)
    text = written()
    assert "1.00 points above dense at the same budget; the goal of 3 is reached." in text
    assert "0.50 points below the fine-tuned model." in text


def test_runs_are_added_to_the_file(tmp_path: Path, written: Callable[[], str]) -> None:
    kept = page.Record("banking77", "fine-tuned", "1", page.OURS, "90 %", SETTING, "", "2", "88.00", "1.00")
    add_records(tmp_path / "runs.csv", page.Record, [kept])
    write_tested(tmp_path / "banking77" / "fine-tuned-1", page.OURS, 3, 0.9, 0.85)
    text = written()
    scores = (88 - 0.5**0.5, 88 + 0.5**0.5, 85.0)
    assert f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f} (3)" in text
    assert written() == text, "a run is counted once"
    assert kept in read_records(tmp_path / "runs.csv", page.Record)


def test_the_page_in_the_repository_follows_from_its_file(tmp_path: Path) -> None:
    check_follows_from_its_file(page, "results.md", tmp_path)


def test_a_task_is_scored_by_its_own_metric(tmp_path: Path) -> None:
    (tmp_path / page.TEST).write_text(json.dumps({"value_accuracy": 0.5, "accuracy": 0.25}))
    assert [page.tested(tmp_path, task) for task in ("mawps", "banking77")] == [50, 25]
