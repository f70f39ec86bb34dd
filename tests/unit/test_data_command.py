"""`dsprune data`: its output, and wrong local copies."""

import json
from pathlib import Path

import pytest

from dsprune.commands.data import check_copy, describe, list_tasks
from dsprune.errors import CheckFailedError
from dsprune.recipe import load_task
from dsprune.registry import TASKS
from dsprune.tasks.glue import GLUE
from dsprune.testing.kinds.kind import commonsense_qa, table
from tests.printing import printed


def copy_of_csqa(folder: Path, num_train: int = 9_741, num_validation: int = 1_221) -> Path:
    line = Path(commonsense_qa(folder / "some")["train"]).read_text().splitlines()[0]
    (folder / "train_rand_split.jsonl").write_text(f"{line}\n" * num_train)
    (folder / "dev_rand_split.jsonl").write_text(f"{line}\n" * num_validation)
    return folder


def test_all_tasks_are_listed():
    text = printed(list_tasks)
    for name in TASKS:
        assert name in text
    assert "GLUE, CoLA" in text
    assert "Kinds of tasks, for your own data" in text


@pytest.mark.parametrize(
    "name", ["commonsense-qa", "winogrande", "race-high", "squad", "mawps", "meltome", *GLUE]
)
def test_source_licence_and_numbers_are_printed(name):
    text = printed(describe, load_task(name))
    for word in ("source", "https://" if name != "race-high" else "http://", "licence", "train:", "examples"):
        assert word in text


def test_both_directions_of_a_pair_are_one_publication():
    text = printed(describe, load_task("opus-100", ["pairs=[en-de, de-en, en-fr]"]))
    assert text.count("data     OPUS-100") == 2


def test_a_whole_copy_passes(tmp_path):
    text = printed(check_copy, load_task("commonsense-qa"), copy_of_csqa(tmp_path))
    assert text.splitlines() == [
        "train: 9,741 examples, as published",
        "validation: 1,221 examples, as published",
    ]


def test_numbers_that_are_not_known_are_not_claimed(tmp_path):
    for file in ("train.csv", "test.csv"):
        table(tmp_path / file, [{"sequence": "MKT", "label": "hot"}, {"sequence": "GGS", "label": "cold"}])
    assert "train: 2 examples, read without errors; the published number is unknown" in printed(
        check_copy, load_task("hotprotein-2"), tmp_path
    )


def test_a_copy_that_lacks_examples_fails(tmp_path):
    copy = copy_of_csqa(tmp_path, 9_740)
    match = (
        r"train_rand_split\.jsonl: 9,740 examples where CommonsenseQA 1\.11, random split has 9,741: fetch it"
    )
    with pytest.raises(CheckFailedError, match=match):
        printed(check_copy, load_task("commonsense-qa"), copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerKey": None}, r"no value in column 'answerKey': fill it in"),
        ({"answerKey": "F"}, r"answerKey 'F' is not one of A, B, C, D, E"),
        ({"question": "plain"}, r"no column 'choices'"),
    ],
)
def test_a_copy_with_other_columns_or_labels_fails(tmp_path, change, message):
    copy = copy_of_csqa(tmp_path)
    file = copy / "train_rand_split.jsonl"
    row = json.loads(file.read_text().splitlines()[0])
    file.write_text(f"{json.dumps(row | change)}\n" * 9_741)
    with pytest.raises(CheckFailedError, match=message):
        printed(check_copy, load_task("commonsense-qa"), copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("commonsense-qa", r"train_rand_split\.jsonl: no such file: give"),
        ("race-high", r"high: holds no \.csv, .* file: give another folder$"),
        ("regression", r": regression is a kind of task, not a benchmark: give"),
    ],
)
def test_a_folder_without_a_copy_fails(tmp_path, name, message):
    (tmp_path / "train" / "high").mkdir(parents=True)
    with pytest.raises(CheckFailedError, match=rf"^task\.folder: .*{message}"):
        printed(check_copy, load_task(name), tmp_path)
