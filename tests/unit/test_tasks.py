"""The data of text classification: files and data sets, columns, labels, encoding, and refused data."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe import load_recipe, load_task
from dsprune.tasks.build import build_task
from dsprune.tasks.glue import GLUE
from dsprune.testing.tiny import tiny_tokenizer

ROWS = [("the film was good", "positive"), ('the plot, "was"\nbad', "negative"), ("so dull", "negative")]


def csv_file(path: Path, rows=ROWS, header="text,label") -> str:
    quoted = ['"' + text.replace('"', '""') + '",' + label for text, label in rows]
    path.write_text("\n".join([header, *quoted]) + "\n", encoding="utf-8")
    return str(path)


def jsonl_file(path: Path, rows=ROWS) -> str:
    path.write_text(
        "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows), encoding="utf-8"
    )
    return str(path)


def parquet_file(path: Path, rows=ROWS) -> str:
    pa.parquet.write_table(pa.table({"text": [t for t, _ in rows], "label": [y for _, y in rows]}), path)
    return str(path)


def task_on(train, validation=None, name="text-classification", **settings):
    return build_task(TaskSettings(name=name, train=train, validation=validation or train, **settings))


@pytest.mark.parametrize(
    ("write", "suffix"), [(csv_file, "csv"), (jsonl_file, "jsonl"), (parquet_file, "parquet")]
)
def test_a_file_is_read_as_it_was_written(tmp_path, write, suffix):
    task = task_on(write(tmp_path / f"data.{suffix}"))
    assert task.labels == ("negative", "positive")
    rows = task.load("train")
    assert rows["text"][:] == [text for text, _ in ROWS]
    assert rows["labels"][:] == [1, 0, 0]


def test_the_kind_of_a_file_may_be_written_in_capitals(tmp_path):
    assert task_on(csv_file(tmp_path / "DATA.CSV")).load("train")["labels"][:] == [1, 0, 0]


def test_csv_values_stay_text(tmp_path):
    task = task_on(csv_file(tmp_path / "t.csv", [("1", "true"), ("002", "false"), ("2020-01-01", "NA")]))
    assert task.labels == ("NA", "false", "true")
    assert task.load("train")["text"][:] == ["1", "002", "2020-01-01"]


def test_numeric_labels_are_in_numeric_order(tmp_path):
    task = task_on(jsonl_file(tmp_path / "t.jsonl", [("a", 10), ("b", 9), ("c", 100), ("d", -1)]))
    assert task.labels == ("-1", "9", "10", "100")
    assert task.load("train")["labels"][:] == [2, 1, 3, 0]


def test_columns_can_be_named(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": "good", "b": "film", "y": "x"}\n{"a": "bad", "b": "plot", "y": "z"}\n')
    rows = task_on(str(file), text="a", text_pair="b", label="y").load("train")
    assert rows.to_dict() == {"text": ["good", "bad"], "text_pair": ["film", "plot"], "labels": [0, 1]}


def test_a_known_task_takes_names_or_numbers_of_its_labels(tmp_path):
    names = csv_file(tmp_path / "names.csv", header="sentence,label")
    numbers = csv_file(tmp_path / "numbers.csv", [("a", "1"), ("b", "0")], header="sentence,label")
    task = task_on(names, numbers, name="sst2")
    assert task.load("train")["labels"][:] == [1, 0, 0]
    assert task.load("validation")["labels"][:] == [1, 0]


def test_pairs_are_encoded_as_the_tokenizer_does_and_cut(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": "the film was very", "b": "so dull", "y": 0}\n{"a": "bad", "b": "plot", "y": 1}\n')
    tokenizer = tiny_tokenizer()
    features = task_on(str(file), text="a", text_pair="b", label="y", max_length=8).prepare(
        "train", tokenizer
    )
    assert features[0]["input_ids"] == tokenizer("the film was", "so dull")["input_ids"]
    assert features[0]["token_type_ids"] == [0] * 5 + [1] * 3
    assert [feature["length"] for feature in features] == [8, 5]


@pytest.mark.parametrize(("pair", "added"), [(None, 2), ("other", 3)])
def test_a_length_that_leaves_none_of_the_text_is_refused(tmp_path, pair, added):
    file, tokenizer = str(tmp_path / "t.csv"), tiny_tokenizer()
    Path(file).write_text("text,other,label\ngood,film,p\nso dull,film,n\n")
    with pytest.raises(
        UserError, match=rf"^task\.max_length: value {added}: the tokenizer adds {added} tokens"
    ):
        task_on(file, text_pair=pair, max_length=added).prepare("train", tokenizer)
    assert (
        task_on(file, text_pair=pair, max_length=added + 1).prepare("train", tokenizer)[0]["length"]
        == added + 1
    )


@pytest.mark.parametrize(("multiple", "width"), [(None, 6), (8, 8)])
def test_a_batch_is_padded_to_its_longest_text(tmp_path, multiple, width):
    tokenizer = tiny_tokenizer()
    task = task_on(csv_file(tmp_path / "t.csv", [("the film was good", "p"), ("so dull", "n")]))
    batch = task.collate(tokenizer, multiple)(list(task.prepare("train", tokenizer)))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == (2, width)
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 4]
    assert batch["labels"].tolist() == [1, 0]


def test_a_limit_spreads_over_the_file(tmp_path):
    rows = [(str(i), "low" if i < 50 else "high") for i in range(100)]
    task = task_on(csv_file(tmp_path / "t.csv", rows), max_train=10, max_validation=1000)
    assert sum(task.prepare("train", tiny_tokenizer())["labels"][:]) == 5
    assert len(task.prepare("validation", tiny_tokenizer())) == 100


@pytest.mark.parametrize("name", sorted(set(GLUE) - {"stsb"}))
def test_every_glue_task_reads_files_in_its_own_columns(tmp_path, name):
    task = build_task(TaskSettings(name=name))
    file = tmp_path / "t.jsonl"
    columns = [task.text, *([task.text_pair] if task.text_pair else [])]
    rows = [dict.fromkeys(columns, "good film") | {"label": number} for number in range(len(task.labels))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    features = task_on(str(file), name=name).prepare("validation", tiny_tokenizer())
    assert features["labels"][:] == list(range(len(task.labels)))
    assert features["length"][:] == [7 if task.text_pair else 4] * len(rows)


@pytest.fixture
def folder_dataset(tmp_path, monkeypatch):
    """A data set in the hub's layout, in a folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "dataset"
    folder.mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])}
    )
    for split, labels in (("train", [0, 1]), ("validation", [1, -1])):
        rows = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": labels}, features)
        rows.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def test_a_data_set_keeps_its_own_order_of_labels(folder_dataset, capsys):
    task = build_task(TaskSettings(name="text-classification", dataset=folder_dataset))
    assert task.labels == ("pos", "neg")
    assert task.load("train")["labels"][:] == [0, 1]
    notice = "from the hub; data that are not in the local cache are downloaded"
    notices = [line for line in capsys.readouterr().err.splitlines() if notice in line]
    assert notices == [f"task.dataset: {folder_dataset}, split train: {notice}"]


def test_rows_that_have_no_label_are_refused(folder_dataset):
    task = build_task(TaskSettings(name="text-classification", dataset=folder_dataset))
    with pytest.raises(UserError, match=r"split validation: row 2: no value in column 'label': fill it in$"):
        task.load("validation")


def test_a_missing_split_is_refused(folder_dataset):
    Path(folder_dataset, "validation.parquet").unlink()
    task = build_task(TaskSettings(name="text-classification", dataset=folder_dataset))
    with pytest.raises(
        UserError, match=r"^task\.dataset: .*validation.*set task\.validation to a local file"
    ):
        task.load("validation")


def test_an_unreachable_data_set_is_refused_with_the_way_out():
    with pytest.raises(
        UserError, match=r"^task\.dataset: nyu-mll/glue \(sst2\), split train: .*set task\.train to"
    ):
        build_task(TaskSettings(name="sst2")).load("train")


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match=r"^task\.name: .*'sst-2': did you mean 'sst2'\? choose one of text-"):
        load_task("sst-2")
    with pytest.raises(UserError, match=r"^task\.name: value 'sst-2': there is no .*: did you mean 'sst2'\?"):
        load_recipe("glue-90", ["task.name=sst-2"])


def test_no_data_is_refused():
    with pytest.raises(UserError, match=r"^task\.train: no data: give a csv, tsv, jsonl or parquet file"):
        build_task(TaskSettings(name="text-classification")).load("train")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^task\.train: .*none\.csv: no such file"):
        task_on(str(tmp_path / "none.csv")).load("train")


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown kind of file '\.txt': use one of \.csv, \.tsv, \.jsonl, \.parquet"
    ):
        task_on(csv_file(tmp_path / "t.txt")).load("train")


def test_a_missing_column_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"t\.csv: no column 'body': set task\.text to one of text, label$"):
        task_on(csv_file(tmp_path / "t.csv"), text="body").load("train")
    with pytest.raises(UserError, match=r"t\.csv: no column 'label': set task\.label to one of text, y$"):
        task_on(csv_file(tmp_path / "t.csv", header="text,y")).load("train")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("csv", b""),
        ("csv", b"text,label\n\xff\xfe,a\n"),
        ("csv", b"\xff\xfe,label\n"),
        ("jsonl", b'{"text": \n'),
        ("parquet", b"text"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, suffix, content):
    file = tmp_path / f"t.{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^task\.train: .*t\.{suffix}: not a valid {suffix} file: ."):
        task_on(str(file)).load("train")


def test_a_file_without_rows_is_refused(tmp_path):
    full = csv_file(tmp_path / "t.csv")
    empty = csv_file(tmp_path / "empty.csv", [])
    with pytest.raises(UserError, match=r"^task\.validation: no examples: give a file or data set"):
        task_on(full, empty).prepare("validation", tiny_tokenizer())


def test_an_unknown_label_is_refused(tmp_path):
    train = csv_file(tmp_path / "t.csv")
    validation = csv_file(tmp_path / "v.csv", [("a", "positive"), ("b", "mixed"), ("c", "0")])
    match = r"^task\.validation: .*v\.csv: row 2: label 'mixed' is unknown: use one of negative, positive$"
    with pytest.raises(UserError, match=match):
        task_on(train, validation).load("validation")


def test_a_single_label_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"column 'label' holds fewer than two labels: set task\.label to"):
        _ = task_on(csv_file(tmp_path / "t.csv", [("a", "x"), ("b", "x")])).labels


def test_a_column_without_text_is_refused(tmp_path):
    file = jsonl_file(tmp_path / "t.jsonl", [(1, "p"), (2, "n")])
    with pytest.raises(
        UserError, match=r"t\.jsonl: column 'text' holds int, not text: set task\.text to another$"
    ):
        task_on(file).load("train")
