"""Data files of users: missing values, formats, and what is read or refused."""

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from pyarrow import parquet
from tokenizers.processors import TemplateProcessing

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe import load_task
from dsprune.tasks.build import build_task
from dsprune.tasks.labels import describe_labels
from dsprune.testing.kinds.kind import jsonl, table
from dsprune.testing.tiny import tiny_tokenizer

Row = dict[str, Any]

ROWS: list[Row] = [{"text": "good film", "label": "p"}, {"text": "bad film", "label": "n"}]


def as_tsv(path: Path, rows: list[Row]) -> None:
    lines = [
        list(rows[0]),
        *(["" if value is None else str(value) for value in row.values()] for row in rows),
    ]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def as_parquet(path: Path, rows: list[Row]) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parquet.write_table(pa.table(columns), path)


WRITERS: dict[str, Callable[[Path, list[Row]], object]] = {
    "csv": table, "tsv": as_tsv, "jsonl": jsonl, "parquet": as_parquet,
}  # fmt: skip


def task_on(
    folder: Path, rows: list[Row], kind: str = "jsonl", name: str = "text-classification", **more: Any
):
    file = folder / f"t.{kind}"
    WRITERS[kind](file, rows)
    return build_task(TaskSettings(name=name, train=str(file), validation=str(file), **more))


# ---- missing values


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "value", [None, "", "  ", "NaN", "nan", "null", "None", "<NA>", "N/A", "#REF!", "\\N"]
)
@pytest.mark.parametrize("column", ["text", "label"])
def test_a_missing_value_is_refused_with_its_row(tmp_path: Path, kind: str, value: Any, column: str) -> None:
    task = task_on(tmp_path, [*ROWS, ROWS[0] | {column: value}], kind)
    says = rf"^task\.train: .*t\.{kind}: row 3: no value in column '{column}'.*: fill it in$"
    with pytest.raises(UserError, match=says):
        task.load("train")


@pytest.mark.parametrize(
    ("kind", "labels"), [("jsonl", ["p", "n", math.nan]), ("parquet", [1.0, 0.0, math.nan])]
)
def test_nan_as_a_number_is_no_class(tmp_path: Path, kind: str, labels: list[Any]) -> None:
    task = task_on(tmp_path, [{"text": "good", "label": label} for label in labels], kind)
    with pytest.raises(UserError, match=r"row 3: no value in column 'label'"):
        _ = task.labels


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "1_000"])
def test_a_number_to_learn_is_finite(tmp_path: Path, kind: str, value: str) -> None:
    rows = [{"text": "a", "label": label} for label in ("1.5", "2.5", value)]
    task = task_on(tmp_path, rows, kind, "regression")
    with pytest.raises(UserError, match=rf"t\.{kind}: row 3: "):
        task.load("train")


@pytest.mark.parametrize("value", [math.inf, math.nan, True])
def test_a_number_of_a_typed_file_is_finite(tmp_path: Path, value: float) -> None:
    rows = [{"text": "a", "label": label} for label in (1.5, 2.5)] + [{"text": "a", "label": value}]
    with pytest.raises(UserError, match=r"t\.jsonl: .*row 3: "):
        task_on(tmp_path, rows, "jsonl", "regression").load("train")


@pytest.mark.parametrize("value", [None, "", math.nan, "null"])
def test_a_missing_choice_is_refused(tmp_path: Path, value: Any) -> None:
    rows = [{"question": "q", "choices": choices, "label": 0} for choices in (["a", "b"], ["a", value])]
    task = task_on(tmp_path, rows, "jsonl", "multiple-choice")
    with pytest.raises(UserError, match=r"row 2: no value in column 'choices'"):
        task.load("train")


def test_choices_that_are_one_text_are_refused(tmp_path: Path) -> None:
    task = task_on(tmp_path, [{"question": "q", "choices": "yes no", "label": 0}], "csv", "multiple-choice")
    with pytest.raises(UserError, match=r"row 1: 'yes no' in column 'choices' is not a list of choices"):
        task.load("train")


@pytest.mark.parametrize("value", [None, "", math.nan, "NaN"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_missing_translation_is_refused(tmp_path: Path, value: Any, nested: bool) -> None:
    pairs = [{"en": "the cat", "de": "die katze"}, {"en": "a dog", "de": value}]
    rows = [{"translation": pair} for pair in pairs] if nested else pairs
    task = task_on(tmp_path, rows, "jsonl", "translation", pairs=("en-de",))
    with pytest.raises(UserError, match=r"t\.jsonl: row 2: "):
        task.load("train")


def test_an_empty_line_of_a_parallel_corpus_is_refused_and_other_words_are_texts(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("zero\nhello\n")
    (tmp_path / "t.de").write_text("null\n \n")
    corpus = str(tmp_path / "t")
    task = build_task(TaskSettings(name="translation", train=corpus, pairs=("en-de",)))
    with pytest.raises(UserError, match=r"row 2: no value in column 'de'"):
        task.load("train")
    (tmp_path / "t.de").write_text("null\nhallo\n")
    assert task.load("train")["reference"][:] == ["null", "hallo"]


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair="$A $B", special_tokens=[]
    )
    task = task_on(tmp_path, [*ROWS, {"text": "\u200b", "label": "p"}])
    with pytest.raises(UserError, match=r"^task\.train: example 3: has no tokens"):
        task.prepare("train", tokenizer)


# ---- values as they are


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "text", ["2020-01-01", "12:30:00", "007", "1e5", "true", "NA", "none", "a\u2028b", 'x "y" z']
)
def test_a_text_stays_as_it_is(tmp_path: Path, kind: str, text: str) -> None:
    task = task_on(tmp_path, [*ROWS, {"text": text, "label": "p"}], kind)
    assert task.load("train")["text"][2] == text


@pytest.mark.parametrize("kind", WRITERS)
def test_a_very_long_field_is_read(tmp_path: Path, kind: str) -> None:
    long = "word " * 500_000
    assert task_on(tmp_path, [{"text": long, "label": "p"}, ROWS[1]], kind).load("train")["text"][0] == long


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("compressed", [False, True])
def test_encodings_with_a_mark_are_read(tmp_path: Path, kind: str, encoding: str, compressed: bool) -> None:
    task = task_on(tmp_path, [{"text": "größe", "label": "p"}, ROWS[1]], kind)
    text = (tmp_path / f"t.{kind}").read_text(encoding="utf-8").encode(encoding)
    file = tmp_path / f"u.{kind}{'.gz' if compressed else ''}"
    file.write_bytes(gzip.compress(text) if compressed else text)
    task = build_task(TaskSettings(name="text-classification", train=str(file)))
    assert task.load("train")["text"][:] == ["größe", "bad film"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_an_encoding_without_a_mark_is_refused(tmp_path: Path, kind: str) -> None:
    task = task_on(tmp_path, ROWS, kind)
    file = tmp_path / f"t.{kind}"
    file.write_bytes(file.read_text().encode("utf-16-le"))
    with pytest.raises(UserError, match=rf"not a valid {kind} file: holds zero bytes: save it as UTF-8"):
        task.load("train")


def test_categories_of_parquet_are_read(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    labels = pa.array(["p", "n", "p"]).dictionary_encode()
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), file)
    task = build_task(TaskSettings(name="text-classification", train=str(file)))
    assert task.labels == ("n", "p")


def test_whole_numbers_are_the_same_labels_in_any_type(tmp_path: Path) -> None:
    as_parquet(tmp_path / "t.parquet", [{"text": "a", "label": 0.0}, {"text": "b", "label": 1.0}])
    table(tmp_path / "v.csv", [{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    files = {split: str(tmp_path / name) for split, name in (("train", "t.parquet"), ("validation", "v.csv"))}
    task = build_task(TaskSettings(name="text-classification", **files))
    assert task.labels == ("0", "1")
    assert task.load("validation")["labels"][:] == [1, 0]


# ---- files that are refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", r'text,label' "\n" r'"a \"b\" c",p', r"row 1: .* \(a quotation mark inside quotes is written twice"),
        ("t.csv", 'text,label\na,p\n"b,n\n', r"row 2: unexpected end of data"),
        ("t.csv", "text,label\na,p\nb\n", r"row 2 has 1 fields and the header has 2"),
        ("t.csv", "text,label\na,b,p\n", r"row 1 has 3 fields and the header has 2"),
        ("t.tsv", "text\tlabel\na\tb\tp\n", r"row 1 has 3 fields and the header has 2"),
        ("t.csv", "text,text,label\na,b,p\n", r"2 columns are called 'text': rename or remove all but one"),
        ("t.jsonl", '{"text": "a", "text": "b", "label": 1}', r"line 1: the key 'text' appears twice"),
        ("t.jsonl", '[{"text": "a"}]', r"line 1 holds a list: write one object in each line"),
        ("t.jsonl", '[\n  {"text": "a"}\n]', r"line 1: begins an array: write one object in each line"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}', r"row 2: column .label. holds str"),
        ("t.jsonl", "[" * 100_000, r"not a valid jsonl file"),
        ("t.jsonl", f'{{"text": "a", "label": 1}}\n{{"text": "b", "label": {2**63}}}', r"row 2: .*64 bits"),
        ("t.jsonl", f'{{"text": "a", "label": [{2**64}]}}', r"row 1: column .label. .*64 bits"),
        ("t.jsonl", f'{{"label": [1]}}\n{{"label": [2, {-(2**64)}]}}', r"row 2: column .label. .*64 bits"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}', r"row 2: column .label. holds bool"),
        ("t.csv", "text;label\na;0\n", r"not a valid csv file: no comma in its header, 'text;label': .* of ';'"),
        ("t.csv", "text;label\na, b;0\n", r"not a valid csv file: no comma in its header, 'text;label': .* ';'"),
        ("t.csv.gz", "text,label", r"not a valid csv file: Not a gzipped file"),
        ("t.csv", "text,label\na,p \nb,p\n", r"the labels 'p' and 'p ' differ only in white space"),
        ("t.csv", "text,label\na,1\nb,1.0\n", r"the labels '1' and '1\.0' differ, but are the same number"),
        ("t.jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y"]}', r"row 1: label \['x'\]: .* list"),
        ("t.csv", "text,label\na,Pos\nb,pos\n", r"the labels 'Pos' and 'pos' differ in capital letters alone"),
        ("t.csv", "text,label\na,p\u200b\nb,p\n", r"the labels 'p' and 'p\\u200b' differ in characters that look the"),
        ("t.csv", "text,label\na,\xe9\nb,e\u0301\n", r"'e\\u0301' and '\\xe9' differ in characters that look the same"),
        ("t.csv", "text,label\na,p\ntext,label\nb,n\n", r"row 2 repeats the header"),
        ("t.tsv", "text\tlabel\na\tp\ntext\tlabel\n", r"row 2 repeats the header"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\n", r"a pointer of Git LFS, .*: run git lfs pull"),
        ("t.csv", "text,label\na,0\nb,01\nc,1\n", r"the labels '01' and '1' differ, but are the same number"),
    ],
)  # fmt: skip
def test_a_file_that_would_be_misread_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    task = build_task(TaskSettings(name="text-classification", train=str(file)))
    with pytest.raises(UserError, match=rf"^task\.train: .*{name}: .*{message}"):
        task.load("train")


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"text,label\n" + bytes(2**25)))
    task = build_task(TaskSettings(name="text-classification", train=str(tmp_path / "t.csv.gz")))
    with pytest.raises(UserError, match=r"t\.csv\.gz: .* decompresses to more than 200 times its size"):
        task.load("train")


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("text,label\ngrün,p\n".encode("latin-1"))
    task = build_task(TaskSettings(name="text-classification", train=str(tmp_path / "t.csv")))
    with pytest.raises(UserError, match=r"t\.csv: .* 0xfc in position 13: .*: save it as UTF-8"):
        task.load("train")


def test_the_rarest_of_many_labels_is_named() -> None:
    labels = [*"abcdefghijklm", "footer"]
    numbers = [number for number in range(13) for _ in range(3)] + [13]
    assert describe_labels(labels, numbers).endswith("j (3), and 4 more, the rarest footer (1)")


def test_repeated_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["p"])], ["text", "text"]), file)
    with pytest.raises(UserError, match=r"2 columns are called 'text'"):
        build_task(TaskSettings(name="text-classification", train=str(file))).load("train")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_is_no_file(tmp_path: Path, split: str) -> None:
    task = task_on(tmp_path, ROWS, "csv")
    task = build_task(task.settings.model_copy(update={split: str(tmp_path)}))
    with pytest.raises(
        UserError, match=rf"^task\.{split}: {tmp_path}: is a folder, not a file: name a file in it$"
    ):
        task.load(split)
    Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path))
    with pytest.raises(UserError, match=rf"^task\.{split}: {tmp_path}: is a folder, .* to_parquet$"):
        task.load(split)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "SST-2").touch()
    for folder, message in (("SST-2", "is a file"), ("none", "no such folder")):
        task = build_task(TaskSettings(name="sst2", folder=str(tmp_path / folder)))
        with pytest.raises(UserError, match=rf"^task\.folder: .*{folder}: {message}"):
            task.load("train")


def test_a_column_of_texts_is_none_of_labels(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "title": f"title {number}"} for number in range(100)]
    task = task_on(tmp_path, rows, label="title")
    with pytest.raises(UserError, match=r"column 'title' holds 100 labels in 100 rows"):
        task.load("train")


@pytest.mark.parametrize(
    ("more", "field", "name"),
    [({"text": "label"}, "label", "label"), ({"text_pair": "text"}, "text_pair", "text")],
)
def test_a_column_has_one_meaning(more: dict[str, str], field: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.{field}: value {name}: the column is a text and the "):
        build_task(TaskSettings(name="text-classification", **more))


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("sst2", 1, r"all rows have the label 'positive'"),
        ("regression", 1.5, r"all rows have the number 1\.5"),
    ],
)
def test_labels_that_are_all_the_same_are_refused(
    tmp_path: Path, name: str, label: float, message: str
) -> None:
    rows = [{"text": text, "sentence": text, "label": label} for text in "ab"]
    with pytest.raises(UserError, match=message):
        task_on(tmp_path, rows, name=name).load("train")


# ---- published files


PUBLISHED: dict[str, tuple[str, str, str, list[Any]]] = {
    "cola": ("train.tsv", "gj04\t1\t\tA cat.\nbc01\t0\t*\tCat a.\n", "sentence", ["A cat.", "Cat a."]),
    "mrpc": ("t.tsv", "Quality\t#1 ID\t#1 String\t#2 String\n1\t7\ta\tb\n0\t7\tc\td\n", "text", ["a", "c"]),
    "stsb": ("t.tsv", "index\tsentence1\tsentence2\tscore\n0\ta\tb\t5.0\n1\tc\td\t0.5\n", "text", ["a", "c"]),
    "mnli": ("t.tsv", "sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\tentailment\n", "text", ["a", "c"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_file_reads_like_the_published_folder(tmp_path: Path, name: str) -> None:
    file, content, _, texts = PUBLISHED[name]
    (tmp_path / file).write_text(content)
    assert build_task(TaskSettings(name=name, train=str(tmp_path / file))).load("train")["text"][:] == texts


def test_a_named_file_of_several_splits_gives_the_rows_of_each(tmp_path: Path) -> None:
    file = tmp_path / "mixed_split.csv"
    lines = ["MKT,40.5,train", "GGS,50.0,train", "HWC,61.5,test", "AAA,1.5,test"]
    file.write_text("sequence,target,set\n" + "\n".join(lines) + "\n")
    task = build_task(TaskSettings(name="meltome", train=str(file), validation=str(file)))
    assert task.load("train")["text"][:] == ["MKT", "GGS"]
    assert task.load("validation")["text"][:] == ["HWC", "AAA"]


QQP = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\twhat\tNone\t0"]


def test_broken_rows_of_a_published_file_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("\n".join([*QQP, "9\t8\tcut off", "4\t5\t6\twho\t\t1", "7"]) + "\n")
    rows = build_task(TaskSettings(name="qqp", train=str(file))).load("train")
    assert rows.to_dict() == {"text": ["what", "who"], "text_pair": ["None", ""], "labels": [0, 1]}
    said = f"task.train: {file}: left out 2 broken rows, the first being row 2\n"
    assert capsys.readouterr().err == said


def test_rows_keep_the_numbers_that_they_have_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("\n".join([*QQP, "9\t8\tcut off", "4\t5\t6\twho\twhere\t7"]) + "\n")
    with pytest.raises(UserError, match=r"train\.tsv: row 3: label '7' is unknown"):
        build_task(TaskSettings(name="qqp", train=str(file))).load("train")


def test_files_of_a_folder_may_order_their_columns_as_they_like(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "high"
    folder.mkdir(parents=True)
    row = {"article": "It rains.", "question": "What?", "options": ["a", "b", "c", "d"], "answer": "A"}
    as_parquet(folder / "1.parquet", [row])
    as_parquet(folder / "2.parquet", [dict(reversed(row.items()))])
    task = build_task(TaskSettings(name="race-high", train=str(folder)))
    assert len(task.load("train")) == 2
    as_parquet(folder / "3.parquet", [row | {"answer": 3}])
    with pytest.raises(UserError, match=r"^task\.train: .*high: its files do not have the same columns: "):
        task.load("train")


def test_values_that_a_dataset_reads_are_those_of_the_file(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).to_parquet(tmp_path / "t.parquet")
    task = build_task(TaskSettings(name="text-classification", train=str(tmp_path / "t.parquet")))
    assert task.prepare("train", tiny_tokenizer())["labels"][:] == [1, 0]


# ---- commands


def test_a_setting_of_the_task_may_be_written_as_in_a_recipe() -> None:
    assert load_task("svamp", ["task.folder=x", "max_length=64"]) == load_task(
        "svamp", ["folder=x", "task.max_length=64"]
    )
