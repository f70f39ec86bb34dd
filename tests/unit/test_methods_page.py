"""The page that compares pruning methods: it follows from runs.csv, to which the runs of a folder are added."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dsprune.report.records import add_records, read_records
from tests.run_folders import write_run
from tests.scripts import check_follows_from_its_file, load

page = load("results/methods/page")
RUN = page.Record("banking77", "90 %", "cpu, fp32", "rigl", "1", "70.00", "80.00", "20")


def records(**scores: tuple[float, float]) -> list[page.Record]:
    """A run of each method, with its accuracy on the test and on the validation split; `_` stands for a space."""
    return [
        replace(
            RUN, method=name.replace("__", ", ").replace("_", " "), test=str(test), validation=str(validation)
        )
        for name, (test, validation) in scores.items()
    ]


def test_the_runs_of_a_folder_are_added_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    home, file = tmp_path / "runs", tmp_path / "runs.csv"
    for name, target, test in (("fisher", 0.9, 0.85), ("fisher", 0.97, 0.75), ("rigl", 0.9, 0.8)):
        overrides = (
            f"name={name}-{target}",
            f"pruning.sparsity={target}",
            f"tracking.group={name}",
            "precision=fp32",
        )
        run = write_run(home / "banking77", *overrides, score=0.7, device="cpu")
        (run / page.TEST).write_text(json.dumps({"accuracy": test}))
    write_run(home / "banking77", "name=untested", "tracking.group=set", score=0.7)
    kept = replace(RUN, setting="cpu, bf16")
    add_records(file, page.Record, [kept, replace(RUN, method="fisher", seed="42", test="1.00")])
    page.main(home, file)
    found = read_records(file, page.Record)
    assert kept in found
    assert [(one.target, one.method, one.test, one.validation) for one in found if one != kept] == [
        ("90 %", "fisher", "85.00", "70.00"),
        ("90 %", "rigl", "80.00", "70.00"),
        ("97 %", "fisher", "75.00", "70.00"),
    ]
    text = (tmp_path / "methods-compared.md").read_text()
    assert "| method | from fisher | update | 77 intents, 90 % | 77 intents, 97 % |" in text
    assert text.index("## cpu, fp32") < text.index("## cpu, bf16"), "the setting of most runs is first"
    page.main(tmp_path / "nothing", file)
    assert (tmp_path / "methods-compared.md").read_text() == text, "the page needs the file alone"


def test_the_page_in_the_repository_follows_from_its_file(tmp_path: Path) -> None:
    check_follows_from_its_file(page, "methods-compared.md", tmp_path)


def test_a_row_holds_the_mean_and_spread_of_the_seeds_and_the_difference_from_the_default() -> None:
    second = {"seed": "2", "test": "82.00"}
    fisher = replace(RUN, method="fisher", test="84.00")
    runs = [
        RUN,
        replace(RUN, **second),
        fisher,
        replace(fisher, **second),
        replace(RUN, method="set", seed="3"),
    ]
    assert page.compared(page.Results(runs)).splitlines()[2:] == [
        "| fisher | - | 20 ms | 83.0 ± 1.4 (2) |",
        "| rigl | -2.0 ± 2.0 (2) | 20 ms | 81.0 ± 1.4 (2) |",
        "| set | - | 20 ms | 80.0 |",
    ]


def test_how_far_the_default_score_and_magnitude_are_behind_is_said() -> None:
    results = page.Results(
        records(rigl=(90, 0), fisher=(85, 0), magnitude=(80, 0), rigl__twice_the_peak=(95, 0))
    )
    (said,) = page.winners(results)
    assert said == "77 intents, 90 %: rigl is best. Behind it: fisher by 5.0, magnitude by 10.0."


def test_the_validation_split_chooses_the_peak_of_a_method() -> None:
    magnitude = {
        "magnitude": (80, 70),
        "magnitude__half_the_peak": (75, 80),
        "magnitude__twice_the_peak": (85, 60),
    }
    lines = page.tuned(page.Results(records(rigl=(80, 50), **magnitude))).splitlines()
    assert lines[2:] == ["| magnitude | 77 intents, 90 % | 75.0 | 80.0 | 85.0 | 75.0, half |"]
    assert page.tuned(page.Results([RUN])) == "", "it was run at one peak"
