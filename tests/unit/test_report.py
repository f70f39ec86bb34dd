"""Reports of finished, killed and damaged runs."""

import csv
import io
import json
import math
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dsprune.commands.report import report
from dsprune.errors import UserError
from dsprune.recipe import Ramp
from dsprune.report.drawing import INK, PHASES, QUIET, RULE, SERIES, new_panels, plot, with_variables
from dsprune.report.grouping import differences, reference_of, settings_of
from dsprune.report.run_pictures import _corners
from dsprune.report.runs import find_folders, read_run
from dsprune.report.runs_page import page_of_runs
from dsprune.report.table import Table, show
from dsprune.schedule import Timetable
from dsprune.utils.console import say
from tests.printing import printed
from tests.run_folders import write_run

TIMETABLE = Timetable(60, 20, 0, (), False, 0.1, 0.1, 0.0)

SVG = "{http://www.w3.org/2000/svg}"
TEACHER = "distillation.teacher=runs/dense/model"


def report_on(*paths: Path, output: Path, audit: bool = False) -> str:
    printed(report, paths, output, None, audit)
    return (output / "report.html").read_text(encoding="utf-8")


def grid(folder: Path, *targets: float, seeds: int = 2) -> dict[tuple[str, float], list[float]]:
    """Runs of two methods, and their scores."""
    scores: dict[tuple[str, float], list[float]] = {}
    for number, (method, overrides) in enumerate({"guided": [TEACHER], "naive": []}.items()):
        for target in targets:
            for seed in range(seeds):
                score = 0.95 - 0.1 * target - 0.03 * number + 0.01 * seed
                names = [f"name={method}-{target}-{seed}", f"seed={seed}", f"tracking.group={method}"]
                write_run(folder, *names, *overrides, f"pruning.sparsity={target}", score=score)
                scores.setdefault((method, target), []).append(score)
    return scores


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# ---- reading


def test_a_killed_run_is_read_up_to_its_last_complete_line(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, killed_at=77))
    assert (run.state, run.last_step, run.score) == ("unfinished", 75, None)
    assert run.sparsity("prunable") == pytest.approx(0.8108, abs=1e-4)
    assert run.timetable.total_steps == 200


def test_the_status_tells_more_of_an_unfinished_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path, killed_at=77)
    said = {"state": "stopped", "reason": "time is up <soon>", "step": 80, "total_steps": 200}
    known = {"host": "h", "pid": 1, "world_size": 1, "started": 0, "updated": 0, "phase": "prune"}
    (folder / "status.json").write_text(json.dumps(known | said))
    run = read_run(folder)
    assert (run.state, run.last_step) == ("stopped", 80)
    page = report_on(folder, output=tmp_path / "page")
    assert "time is up &lt;soon&gt;." in page
    assert "80 of 200" in page


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, killed_at=10)
    lines = [{"step": 5, "loss": 0.5}, {"step": 10, "loss": "nan"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(folder).series("loss") == ([5], [0.5])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n{,}\n{}\n', r"metrics.jsonl: line 2: not a row of .*: remove the line"),
        ("metrics.jsonl", '{"loss": 1}\n', r"metrics.jsonl: line 1: not a row of metrics \(step: value .*: Field"),
        ("metrics.jsonl", '{"step": 1, "tensor_sparsity": {"a": "x"}}\n', r"tensor_sparsity.a: value 'x'"),
        ("summary.json", "{", r"summary.json: not a summary \(Invalid JSON.*: fix or remove it"),
        ("summary.json", '{"metrics": []}', r"summary.json: not a summary \(metrics: value \[\].*: fix or remove"),
        ("status.json", "[]", r"status.json: not the state of a run \(.*: remove it and resume the run"),
        ("start.json", '{"timetable": {}}', r"start.json: not a record of a start \(timetable"),
        ("start.json", '{"versions": [1]}', r"start.json: not a record of a start \(versions: value \[1\]"),
        ("ds_config.json", "[1]", r"ds_config.json: not a ds_config \(value \[1\]|ds_config.json: not a ds_config"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = write_run(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(folder)


def test_there_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe.yaml in it or below it, so no run"):
        report_on(tmp_path, output=tmp_path)
    with pytest.raises(UserError, match=r"holds no recipe.yaml, so no run: give the folder of a run"):
        read_run(tmp_path)


def test_folders_are_found_below_and_counted_once(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", "name=one"), write_run(tmp_path / "a" / "b", "name=two")]
    (link := tmp_path / "a-link").symlink_to(runs[0])
    paths = [tmp_path, runs[0], link, runs[1] / ".." / "two"]
    assert find_folders(paths, "recipe.yaml") == sorted(runs, key=lambda run: run.name != "two")


def test_each_metric_of_a_target_has_a_reference_of_its_own(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, "name=a", "tracking.group=a"),
        write_run(tmp_path, "name=b", "tracking.group=b"),
    ]
    summary = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps(summary | {"metrics": {"bleu": 25.0}}))
    page = report_on(*runs, output=tmp_path / "page")
    assert page.count('<tr class="strong">') == 2  # more BLEU than accuracy says nothing


def test_a_run_that_is_there_twice_is_named(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, f"name=run-{seed}", f"seed={seed}") for seed in (1, 2)]
    assert "both count" not in report_on(*runs, output=tmp_path / "page")
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    page = report_on(*runs, copy, output=tmp_path / "page")
    assert re.search(r"copy has the recipe and the seed of \S*run-2: both count", page)


# ---- grouping


def test_seeds_are_one_setting_and_sparsities_one_series(tmp_path: Path) -> None:
    scores = grid(tmp_path, 0.5, 0.9, seeds=3)
    settings = settings_of([read_run(path) for path in sorted(tmp_path.iterdir()) if path.is_dir()])
    assert [(s.series, s.target) for s in settings] == list(scores)
    for setting in settings:
        expected = scores[setting.series, setting.target]
        assert sorted(setting.scores) == expected
        assert setting.mean == pytest.approx(statistics.fmean(expected))
        assert setting.spread == pytest.approx(statistics.stdev(expected))


def test_without_groups_a_series_is_named_by_what_differs(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path, "name=a", "learning_rate.peak=1e-4"),
        write_run(tmp_path, "name=b", "learning_rate.peak=2e-4"),
        write_run(tmp_path, "name=c", "pruning=null"),
    ]
    runs = [read_run(path) for path in paths]
    labels = [setting.series for setting in settings_of(runs)]
    assert labels == ["learning_rate.peak=0.0001", "learning_rate.peak=0.0002", "dense"]
    assert differences(runs[:2]) == {"learning_rate.peak": ["0.0001", "0.0002"]}


def test_a_series_that_differs_in_sparsity_alone_is_named_by_its_method(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, "name=a", "pruning.method=magnitude")]
    assert [setting.series for setting in settings_of([read_run(path) for path in paths])] == ["magnitude"]
    paths += [write_run(tmp_path, "name=b", "pruning.method=magnitude", "pruning.sparsity=0.5")]
    settings = settings_of([read_run(path) for path in paths])
    assert [(setting.series, setting.target) for setting in settings] == [
        ("magnitude", 0.5),
        ("magnitude", 0.9),
    ]


# ---- the page and the tables


def test_one_run_shows_every_update_planned_and_reached(tmp_path: Path) -> None:
    folder = write_run(tmp_path, TEACHER)
    page = report_on(folder, output=folder, audit=True)
    updates = rows_of(folder / "updates.csv")
    assert len(updates) == 7
    assert all(row["planned"] == row["reached"] for row in updates)
    assert updates[-1]["reached"] == "90.00 %"
    assert "Hardness 1, temperature 1." in page
    assert "Not audited: " in page, "there is neither a model nor a checkpoint"
    assert "| 173 | 90.00 % | 90.00 % |" in (folder / "report.md").read_text()
    assert "after the mask update at step 173." in page


def test_runs_that_did_not_record_the_step_of_an_update_show_the_same_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    known = read_run(folder).updates
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    older = [{key: value for key, value in row.items() if key != "update_step"} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in older))
    assert list(read_run(folder).updates) == list(known) == [13, 40, 66, 93, 120, 146, 173]


@pytest.mark.parametrize(
    ("start", "end"), [(0, "100 %"), ("10 %", "2 epochs"), (5, 5), (40, 70), (60, "1 epochs")]
)
def test_a_ramp_is_drawn_by_its_corners(start: int | str, end: int | str) -> None:
    ramp, made = Ramp(first=1.0, final=4.0, start=start, end=end), TIMETABLE
    steps, values = _corners(ramp, made)
    every = range(made.total_steps)
    found = np.interp(every, steps, values)
    assert found == pytest.approx([ramp.at(step, 20, made.total_steps) for step in every])
    assert len(_corners(ramp, replace(made, total_steps=10**12))[0]) <= 6


def test_a_run_without_distillation_has_no_section_of_it(tmp_path: Path) -> None:
    assert "<h2>Distillation</h2>" not in report_on(write_run(tmp_path), output=tmp_path)


def test_updates_that_never_came_are_shown_as_planned_only(tmp_path: Path) -> None:
    report_on(write_run(tmp_path, killed_at=77), output=tmp_path)
    reached = [row["reached"] for row in rows_of(tmp_path / "updates.csv")]
    assert reached == ["60.19 %", "72.88 %", "81.08 %", "", "", "", ""]


def test_a_killed_run_that_logged_nothing_is_a_page_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path, killed_at=0)
    (folder / "start.json").unlink()
    page = report_on(folder, output=tmp_path)
    assert "Nothing was logged yet." in page
    assert "No mask update has happened yet." in page
    assert "versions not recorded" in page


def test_many_runs_become_means_with_their_spread(tmp_path: Path) -> None:
    scores = grid(tmp_path / "runs", 0.5, 0.9)
    report_on(tmp_path / "runs", output=tmp_path / "page")
    rows = {(row["setting"], row["target"]): row for row in rows_of(tmp_path / "page" / "settings.csv")}
    for (series, target), expected in scores.items():
        row = rows[series, f"{100 * target:.2f} %"]
        assert float(row["mean"]) == pytest.approx(statistics.fmean(expected), abs=1e-4)
        assert float(row["std"]) == pytest.approx(statistics.stdev(expected), abs=1e-4)
        assert row["seeds finished"] == "2 of 2"


def test_runs_that_prune_different_sets_are_compared_on_all_weights(tmp_path: Path) -> None:
    grid(tmp_path / "runs", 0.9, seeds=1)
    other = write_run(tmp_path / "runs", "name=other", "pruning.include=['*embeddings*']")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"sparsity": {"prunable": 0.9, "model": 0.89}}))
    assert "sparsity of all weights of the model, %" in report_on(tmp_path / "runs", output=tmp_path)


def test_the_temperature_is_drawn_with_the_calibrated_one_marked(tmp_path: Path) -> None:
    for temperature in (1, 2, 4):
        tags = "tracking.tags=[calibrated]" if temperature == 2 else "tracking.tags=[]"
        names = [f"name=t{temperature}", f"tracking.group=T={temperature}", tags]
        write_run(tmp_path / "runs", TEACHER, f"distillation.temperature={temperature}", *names)
    page = report_on(tmp_path / "runs", output=tmp_path)
    assert "Temperature at a target of 90 %" in page
    assert page.count("> calibrated<") == 1


def test_nothing_to_compare_is_reported(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / "runs", f"name={name}", killed_at=30)
    assert "No run is finished yet" in report_on(tmp_path / "runs", output=tmp_path)


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    grid(tmp_path / "runs", 0.9)
    page = report_on(tmp_path / "runs", output=tmp_path)
    assert not re.search(
        r"""(src|href)=["'](https?:)?//|@import|url\(["']?http""", page.replace('xlink:href="#', "")
    )
    assert "<script" not in page


def test_foreign_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    name = """"><script>alert('$x$')</script>$\\frac"""
    for run in "ab":
        folder = write_run(tmp_path / "runs", f"name={run}", f"tracking.group='<b>{run}</b> $y'")
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"metrics": {name: 0.5}}))
    document = report_on(tmp_path / "runs", output=tmp_path)
    page = ElementTree.fromstring(document[document.index("<main>") : document.index("</main>")] + "</main>")
    labels = [svg.attrib["aria-label"] for svg in page.iter(f"{SVG}svg")]
    assert f"{name} against sparsity" in labels
    assert name in [text.text for text in page.iter(f"{SVG}text")]
    assert not [element for element in page.iter() if element.tag in ("script", "b")]


def test_figures_are_drawn_in_distinct_colours_of_the_page() -> None:
    drawn = (*SERIES, INK, QUIET, RULE, *PHASES.values())
    assert len(set(drawn)) == len(drawn)
    assert with_variables(f"fill: {SERIES[1]}; stroke: {INK}") == "fill: var(--series-1); stroke: var(--ink)"


def test_a_run_links_to_its_own_page(tmp_path: Path) -> None:
    grid(tmp_path / "runs", 0.9, seeds=1)
    (tmp_path / "runs" / "guided-0.9-0" / "report.html").touch()
    page = report_on(tmp_path / "runs", output=tmp_path / "page")
    assert '<a href="./../runs/guided-0.9-0/report.html">guided-0.9-0</a>' in page
    assert page.count("<a ") == 1


def test_a_link_is_a_path_whatever_the_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parent = Path("javascript:alert(1)")
    for name in ("a", "b"):
        (write_run(parent, f"name={name}") / "report.html").touch()
    page = report_on(parent, output=Path())
    assert 'href="./javascript%3Aalert%281%29/a/report.html"' in page
    assert 'href="javascript' not in page


def test_every_text_of_a_run_is_text_on_the_page(tmp_path: Path) -> None:
    evil = """"><img src=x onerror=alert(1)>"""
    folder = write_run(
        tmp_path / "runs", killed_at=77, start={"command": evil, "device": evil, "versions": {"torch": evil}}
    )
    known = {"host": evil, "pid": 1, "world_size": 1, "started": 0, "updated": 0, "phase": evil, "loss": 0.5}
    said = known | {"state": "failed", "reason": evil, "step": 80, "total_steps": 200}
    (folder / "status.json").write_text(json.dumps(said))
    row = {
        "step": 76,
        "update_step": 75,
        "update_sparsity": 0.5,
        "update_seconds": 0.1,
        "update_bytes_sent": 1,
    }
    row |= {
        "sparsity_prunable": 0.5,
        "sparsity_model": 0.4,
        "tensor_sparsity": {evil: 0.5},
        f"validation_{evil}": 0.5,
    }
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    page = report_on(folder, output=tmp_path / "page")
    assert evil not in page
    assert "<img" not in page
    assert "<img" not in (tmp_path / "page" / "report.md").read_text()


def test_weights_that_grew_back_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs")
    row = {
        "step": 76,
        "update_step": 75,
        "update_sparsity": 0.5,
        "update_regrown": 1234,
        "share_regrown": 0.25,
    }
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    report_on(folder, output=tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text()
    assert "| grew back | regrown of kept |" in text
    assert "| 1,234 | 25.00 % |" in text


def test_folds_are_pooled_and_the_best_evaluation_is_named(tmp_path: Path) -> None:
    task = "task={name: mawps, folder: data, fold: %d}"
    for fold, (score, size) in enumerate([(0.5, 100), (0.8, 300)]):
        names = [f"name=fold-{fold}", "tracking.group=gradual", task % fold]
        folder = write_run(tmp_path / "runs", *names, score=score)
        summary = json.loads((folder / "summary.json").read_text()) | {"validation_examples": size}
        (folder / "summary.json").write_text(json.dumps(summary))
        rows = (folder / "metrics.jsonl").read_text() + json.dumps(
            {"step": 199, "validation_accuracy": score + 0.1}
        )
        (folder / "metrics.jsonl").write_text(
            rows + "\n" + json.dumps({"step": 2, "validation_accuracy": 0.99}) + "\n"
        )
    report_on(tmp_path / "runs", output=tmp_path)
    [row] = rows_of(tmp_path / "folds.csv")
    assert row == {
        "setting": "gradual, mawps", "target": "90.00 %", "folds": "2", "mean": "0.6500",
        "pooled": "0.7250", "best, mean": "0.7500", "best, pooled": "0.8250",
    }  # fmt: skip
    assert [row["best"] for row in rows_of(tmp_path / "settings.csv")] == ["0.6000", "0.9000"]


def test_a_last_score_that_is_nan_is_not_the_best(tmp_path: Path) -> None:
    folder = write_run(tmp_path, score=math.nan)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 199, "validation_accuracy": 0.8}) + "\n")
    assert read_run(folder).best == 0.8


def test_a_mean_that_is_nan_is_not_the_reference(tmp_path: Path) -> None:
    for group, score in (("constant", math.nan), ("good", 0.8), ("poor", 0.7)):
        write_run(
            tmp_path / "runs", f"name={group}", f"tracking.group={group}", f"seed={len(group)}", score=score
        )
    settings = settings_of([read_run(folder) for folder in find_folders([tmp_path / "runs"], "recipe.yaml")])
    assert reference_of(settings).series == "good"
    assert "points from good" in report_on(tmp_path / "runs", output=tmp_path)


def test_a_title_is_that_of_the_page_of_one_run_too(tmp_path: Path) -> None:
    printed(report, [write_run(tmp_path)], tmp_path, "My <title>", False)
    assert "<h1>My &lt;title&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_figure_names_what_made_it(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path, f"name=run-{n}", f"seed={n}", torch="2")) for n in (1, 2)]
    page = page_of_runs(runs, "two", tmp_path, [None, None])
    origins = [
        block.origin for section in page.sections for block in section.blocks if hasattr(block, "origin")
    ]
    assert origins
    assert set(origins) == {"2 runs, commands below · seeds 1, 2 · torch 2.13.0"}


def test_a_terminal_shows_names_as_they_are() -> None:
    table = Table("t", "[i]A[/] table", ("[b]name", "value"), (("[red]x", ":100:"),))
    shown = printed(show, table) + printed(lambda console: say(console, "runs/[b]:100:"))
    assert all(text in shown for text in ("[i]A[/] table", "[b]name", "[red]x", ":100:", "runs/[b]:100:"))


def test_control_characters_do_not_reach_the_terminal() -> None:
    evil = "a\x1b[2J\nb\u202ec"
    table = Table("t", "A table", ("name", "value"), ((evil, "1"),))
    shown = printed(show, table) + printed(lambda console: say(console, evil))
    assert shown.count(r"a\x1b[2J\nb\u202ec") == 2
    assert "\x1b[2J" not in shown


def test_a_table_survives_its_formats() -> None:
    table = Table("t", "A table", ("name", "value"), (("a|b", "1,000"), ("c", "-")), "a note")
    assert table.markdown().splitlines()[2:6] == [
        *("| name | value |", "| --- | ---: |", "| a\\|b | 1,000 |", "| c | - |")
    ]
    assert list(csv.reader(io.StringIO(table.csv()))) == [["name", "value"], ["a|b", "1,000"], ["c", ""]]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1+cmd|' /C x'!A0", "'-1+cmd|' /C x'!A0"),
    ]
    + [(number, number) for number in ("-1.5", "+0.3 %", "-1,234", "-2e-05", "-3 points")],
)
def test_no_cell_is_a_formula(cell: str, written: str) -> None:
    table = Table("t", "A table", ("name",), ((cell,),))
    assert list(csv.reader(io.StringIO(table.csv())))[1] == [written]


def test_nothing_that_is_written_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    text = report_on(
        write_run(tmp_path, "name=one", f"distillation.teacher={tmp_path}/teacher"), output=tmp_path / "out"
    )
    assert "…/teacher" in text
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("last", [1, 3, 7, 1000])
def test_steps_are_whole_numbers_on_their_axis(last: int) -> None:
    _, [axes] = new_panels(["loss"], "optimizer step", height=2)
    axes.set_xlim(0, last)
    assert all(float(place).is_integer() for place in axes.get_xticks())


def test_the_only_point_of_a_curve_is_drawn() -> None:
    _, [axes] = new_panels(["loss"], "optimizer step", height=2)
    plot(axes, [5], [0.5], lw=1)
    plot(axes, [5, 6], [0.5, 0.5], lw=1)
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]
    assert not axes.lines[0].get_clip_on()
