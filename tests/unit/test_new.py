"""`dsprune new`: the recipe that it writes for a file fits the file, and passes `dsprune plan`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import BertModel

from dsprune.commands.cli import run_command
from dsprune.commands.data import kinds_of_tasks
from dsprune.commands.new.guess import guess
from dsprune.commands.new.new import hold_out
from dsprune.commands.plan.make import make_plan
from dsprune.errors import UserError
from dsprune.recipe import load_recipe, shipped_recipes
from dsprune.recipe.loading import read_recipe
from dsprune.testing.tiny import tiny_bert, tiny_sentiment

COLUMNS = {name: task.columns() for name, task in kinds_of_tasks().items()}


@pytest.fixture
def headless(bert: str) -> str:
    """The folder of a model without a head."""
    BertModel.from_pretrained(bert).save_pretrained(bert)
    return bert


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a model, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return str(tiny_bert(Path("bert")))


def made(*arguments: str) -> Path:
    assert run_command(["new", "mine", *arguments]) == 0
    return Path("mine.yaml")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_command(["new", "mine", *arguments]) == 2
    return capsys.readouterr().err


def test_a_file_of_ones_own_is_planned(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sentiment(Path("data"), 200)
    path = made("--data", "data/train.csv", "--model", bert, "precision=fp32", "budget.epochs=4")
    said = capsys.readouterr().out
    for part in (
        "200 rows; task.name=text-classification, task.text=text, task.label=label",
        "2 classes: negative",
    ):
        assert part in said
    assert said.splitlines()[-1] == "next: dsprune plan mine.yaml"
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert (recipe.precision, recipe.budget.epochs, recipe.model.path) == ("fp32", 4, bert)
    plan = make_plan(recipe, 1)
    assert plan.num_examples < 200
    assert not plan.remarks, "no example is in both parts"


def test_the_next_command_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my own").mkdir()
    assert run_command(["new", "my own/mine"]) == 0
    assert capsys.readouterr().out.endswith("next: dsprune plan 'my own/mine.yaml'\n")
    assert "#   dsprune train 'my own/mine.yaml'\n" in Path("my own/mine.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "dense", "peak"),
    [
        ((), 0.0012, None),
        (("learning_rate.dense=3e-4",), 3e-4, None),
        (("learning_rate.peak=3e-4",), None, 3e-4),
        (("learning_rate={peak: 3e-4}",), None, 3e-4),
    ],
)
def test_the_width_of_the_model_gives_the_dense_rate_unless_the_user_does(
    bert: str,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    dense: float | None,
    peak: float | None,
) -> None:
    tiny_sentiment(Path("data"), 200)
    rate = read_recipe(str(made("--data", "data/train.csv", "--model", bert, *overrides)))[1]["learning_rate"]
    assert (rate.get("dense"), rate.get("peak")) == (dense, peak)
    assert ("calibrate --rate --recipe mine.yaml" in capsys.readouterr().out) == (not overrides)


def test_a_model_of_unknown_width_keeps_the_rate_of_the_recipe(
    bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_recipe(str(made("--model", "someone/model")))[1]["learning_rate"] == {"dense": 5e-5}
    assert "learning_rate.dense=5e-05: from glue-90, for a model of its size" in capsys.readouterr().out


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_copy_of_a_recipe_is_the_same_recipe_with_comments(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made("--from", name)
    assert load_recipe(str(path)) == load_recipe(name).model_copy(update={"name": "mine"})
    assert read_recipe(str(path))[1] == read_recipe(name)[1]
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) <= 120
    keys = [place for place, line in enumerate(lines) if line.strip() and line.strip()[0] not in "#-'\"*}["]
    assert sum(lines[place - 1].strip().startswith("#") for place in keys) > len(keys) / 2


def test_the_parts_that_belong_to_another_model_are_left_out(
    bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sentiment(Path("data"), 200)
    data = ["--data", "data/train.csv", "--validation", "data/validation.csv"]
    recipe = load_recipe(str(made("--from", "sentiment-90", *data, "--model", bert)))
    assert "model of sentiment-90: model.start, distillation" in capsys.readouterr().out
    assert recipe.distillation is None
    assert (recipe.task.train, recipe.task.validation) == ("data/train.csv", "data/validation.csv")
    make_plan(recipe, 1)


@pytest.mark.parametrize(
    ("file", "rows", "task"),
    [
        (
            "a.jsonl",
            [{"sentence1": f"a {n}", "sentence2": "the film", "score": n / 7} for n in range(50)],
            "regression",
        ),
        ("a.txt", [f"the film was good {n}" for n in range(80)], "masked-language-modeling"),
        (
            "a.jsonl",
            [{"question": f"the {n}", "choices": ["good", "bad"], "label": n % 2} for n in range(50)],
            "multiple-choice",
        ),
    ],
)
def test_other_kinds_are_planned_too(headless: str, file: str, rows: list[Any], task: str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(file).write_text("\n".join(lines) + "\n")
    recipe = load_recipe(str(made("--data", file, "--model", headless, "budget.batch=4", "budget.epochs=2")))
    assert recipe.task.name == task
    make_plan(recipe, 1)


@pytest.mark.parametrize(
    ("columns", "task", "settings"),
    [
        ({"Text": ["a", "b"] * 9, "Class": ["x", "y"] * 9}, "text-classification", {"text": "Text", "label": "Class"}),
        ({"id": ["1", "2"], "body": ["long text", "text"], "mood": ["x", "x"]}, "masked-language-modeling", None),
        ({"note": ["a b c", "d e"], "stars": ["1", "5"]}, "text-classification", {"text": "note", "label": "stars"}),
        ({"note": ["a b c", "d e"], "stars": ["1.5", "5"]}, "regression", {"text": "note", "label": "stars"}),
        ({"premise": ["a"], "hypothesis": ["b"], "label": ["x"]}, "text-classification", None),
        ({"en": ["a"], "de": ["b"]}, "translation", {"pairs": ["en-de"]}),
        ({name: ["1"] for name in ("id", "question", "context", "answers")}, "question-answering", None),
        ({name: ["1"] for name in ("Question", "Numbers", "Equation")}, "equation-generation", {}),
    ],
)  # fmt: skip
def test_the_columns_tell_the_kind(
    columns: dict[str, list[str]], task: str, settings: dict[str, Any] | None
) -> None:
    found = guess(pa.table(columns), "a.csv", COLUMNS, None, lambda: False)
    assert found.task == task
    if settings is not None:
        assert found.settings == settings


def test_a_causal_model_reads_texts_as_one() -> None:
    assert (
        guess(pa.table({"text": ["a"]}), "a", COLUMNS, None, lambda: True).task == "causal-language-modeling"
    )


def test_a_file_without_texts_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a\.csv: no column of text among n, label: give a file with one"):
        guess(pa.table({"n": [1], "label": ["x"]}), "a.csv", COLUMNS, None, lambda: False)


def test_labels_of_tokens_are_told_to_be_no_kind_of_task() -> None:
    table = pa.table({"tokens": [["a", "b"]], "tags": [["x", "y"]]})
    with pytest.raises(
        UserError, match=r"^a\.jsonl: no column of text, but lists in tokens, tags: .*dsprune run"
    ):
        guess(table, "a.jsonl", COLUMNS, None, lambda: False)


def test_equal_rows_and_rare_labels_are_held_out_with_care() -> None:
    rows = (
        [("a", "common")] * 30
        + [(str(n), "common") for n in range(60)]
        + [("b", "rare"), ("c", "rare"), ("d", "one")]
    )
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    kept, held = hold_out(table, "label")
    assert kept.num_rows + held.num_rows == len(rows)
    assert not set(kept["text"].to_pylist()) & set(held["text"].to_pylist())
    assert set(kept["label"].to_pylist()) == {"common", "rare", "one"}
    assert set(held["label"].to_pylist()) == {"common", "rare"}


def test_equal_texts_are_not_in_both_parts_whatever_their_other_columns_hold() -> None:
    texts = [f"Text {n % 20}".upper() if n % 3 else f"text  {n % 20} " for n in range(100)]
    table = pa.table({"id": list(range(100)), "text": texts, "label": ["a", "b"] * 50})
    kept, held = hold_out(table, "label", ["text"])
    known = [{" ".join(text.lower().split()) for text in part["text"].to_pylist()} for part in (kept, held)]
    assert held.num_rows == 10
    assert not known[0] & known[1]


def test_inputs_are_no_longer_than_the_model_takes(bert: str) -> None:
    tiny_sentiment(Path("data"), 64)
    small = tiny_bert(Path("small"), max_position_embeddings=24)
    assert load_recipe(str(made("--data", "data/train.csv", "--model", str(small)))).task.max_length == 24


def test_a_small_file_lowers_the_batch(headless: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sentiment(Path("data"), 20)
    recipe = load_recipe(str(made("--data", "data/train.csv", "--model", headless)))
    assert f"budget.batch: lowered from 32 to the {recipe.budget.batch} training" in capsys.readouterr().out
    make_plan(recipe, 1)


def test_nothing_is_overwritten(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sentiment(Path("data"), 64)
    Path("mine-data").mkdir()
    assert "mine-data: exists already" in refused(capsys, "--data", "data/train.csv")
    Path("mine.yaml").write_text("")
    assert "mine.yaml: exists already" in refused(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "regression"], "--data: value missing"),
        (["--data", "none.csv"], "--data: none.csv: no such file"),
        (["--data", "a.csv", "--task", "regresion"], "--task: value regresion: is not a kind of task: choose one of"),
        (["--data", "a.csv"], "a.csv: row 2: no value in column 'label'"),
        (["--data", "b.csv", "pruning.sparsity=2"], "pruning.sparsity: value 2"),
        (["--data", "b.csv", "task.loss=margin"], "task.loss: value margin: the task text-classification has no"),
        (["--from", "glue-91"], "did you mean 'glue-90'"),
        (["pruning.sparsity=2"], "pruning.sparsity: value 2"),
    ],
)  # fmt: skip
def test_bad_input_is_said_and_nothing_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\na,x\nb,\nc,y\n")
    Path("b.csv").write_text("text,label\n" + "a,x\nb,y\n" * 20)
    assert message in refused(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
