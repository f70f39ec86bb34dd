"""Multiple choice: the encodings of each benchmark by hand, its files, and refused data."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.commonsense import commonsense_qa, race, winogrande
from dsprune.tasks.rows import Rows
from dsprune.testing.kinds.kind import jsonl
from dsprune.testing.kinds.models import byte_pairs, byte_pairs_without_padding, word_piece

TOKENIZER = word_piece(["q : a where is the cat mat park in on sat it big too"])

CSQA = {
    "answerKey": "B",
    "id": "1",
    "question": {
        "question_concept": "cat",
        "choices": [
            {"label": letter, "text": text}
            for letter, text in zip("ABCDE", ["mat", "park", "cat", "big", "it"], strict=True)
        ],
        "stem": "where is the cat",
    },
}
WINOGRANDE = {
    "qID": "1",
    "sentence": "The cat sat on it, _ is big.",
    "option1": "cat",
    "option2": "mat",
    "answer": "2",
}


def rows_of(*rows: dict[str, Any]) -> Rows:
    return Rows(Dataset.from_list(list(rows)), "task.train: t.jsonl")


def test_commonsense_qa_is_a_question_and_an_answer():
    (question,) = commonsense_qa(rows_of(CSQA))
    assert question.pairs == tuple(
        ("Q: where is the cat", f"A: {text}") for text in ["mat", "park", "cat", "big", "it"]
    )
    assert question.answer == 1


def test_commonsense_qa_of_the_hub_is_the_same():
    choices = {"label": list("ABCDE"), "text": ["mat", "park", "cat", "big", "it"]}
    row = {"question": "where is the cat", "choices": choices, "answerKey": "B"}
    assert commonsense_qa(rows_of(row)) == commonsense_qa(rows_of(CSQA))


def test_winogrande_is_cut_at_the_blank():
    (question,) = winogrande(rows_of(WINOGRANDE))
    assert question.pairs == (("The cat sat on it, cat", " is big."), ("The cat sat on it, mat", " is big."))
    assert question.answer == 1


@pytest.mark.parametrize(
    ("question", "second"),
    [
        ("The cat is _ .", ["The cat is a .", "The cat is b .", "The cat is c .", "The cat is d ."]),
        ("Where?", ["Where? a", "Where? b", "Where? c", "Where? d"]),
    ],
)
def test_race_fills_the_blank_or_appends(question, second):
    row = {"article": "Long text.", "question": question, "options": list("abcd"), "answer": "D"}
    (made,) = race(rows_of(row))
    assert made.pairs == tuple(("Long text.", text) for text in second)
    assert made.answer == 3


def test_race_leaves_out_questions_without_a_choice():
    row = {"article": "Text.", "question": "Where?", "options": ["a"] * 4, "answer": "A"}
    assert race(rows_of(row, {**row, "options": list("abcd")})) == race(
        rows_of({**row, "options": list("abcd")})
    )


def test_race_is_read_from_the_folder_of_its_archive(tmp_path, monkeypatch):
    for split, num in (("train", 2), ("dev", 1)):
        folder = tmp_path / split / "middle"
        folder.mkdir(parents=True)
        for i in range(num):
            article = {
                "id": f"middle{i}.txt",
                "article": f"text {i}",
                "questions": ["where _", "who"],
                "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
                "answers": ["A", "C"],
            }
            (folder / f"{i}.txt").write_text(json.dumps(article))
    files = {"train": str(tmp_path / "train" / "middle"), "validation": str(tmp_path / "dev" / "middle")}
    task = build_task(TaskSettings(name="race-middle", **files))
    assert task.load("train")["first"][:] == [[f"text {i}"] * 4 for i in (0, 0, 1, 1)]
    assert task.load("train")["labels"][:] == [0, 2, 0, 2]
    assert task.load("validation")["second"][1] == ["who e", "who f", "who g", "who h"]
    article = json.loads((tmp_path / "dev/middle/0.txt").read_text()) | {"article": "text\u20280"}
    lines = tmp_path / "all.jsonl.gz"
    lines.write_bytes(gzip.compress(f"{json.dumps(article, ensure_ascii=False)}\n\n".encode()))
    single = build_task(TaskSettings(name="race-middle", train=str(lines), validation=str(lines)))
    assert single.load("train")["first"][:] == [["text\u20280"] * 4] * 2
    assert single.load("train")["second"][:] == task.load("validation")["second"][:]
    with pytest.raises(
        UserError, match=r"middle: 4 examples where RACE, middle school has 25,421: fetch it again"
    ):
        build_task(TaskSettings(name="race-middle", folder=str(tmp_path))).load("train")


def test_the_tokens_of_each_choice(tmp_path):
    file = jsonl(tmp_path / "t.jsonl", [CSQA])
    task = build_task(TaskSettings(name="commonsense-qa", train=file, validation=file))
    example = task.prepare("train", TOKENIZER)[0]
    tokens = [" ".join(TOKENIZER.convert_ids_to_tokens(ids)) for ids in example["input_ids"]]
    assert tokens[0] == "[CLS] q : where is the cat [SEP] a : mat [SEP]"
    assert tokens[4] == "[CLS] q : where is the cat [SEP] a : it [SEP]"
    assert example["token_type_ids"][0] == [0] * 8 + [1] * 4
    assert example["length"] == 12
    batch = task.collate(TOKENIZER)([example, example])
    assert batch["input_ids"].shape == (2, 5, 12)
    assert batch["labels"].tolist() == [1, 1]


def test_a_pair_that_is_too_long_loses_the_end_of_its_first_text(tmp_path):
    file = jsonl(tmp_path / "t.jsonl", [CSQA])
    task = build_task(TaskSettings(name="commonsense-qa", train=file, validation=file, max_length=10))
    ids = task.prepare("train", TOKENIZER)[0]["input_ids"][0]
    assert " ".join(TOKENIZER.convert_ids_to_tokens(ids)) == "[CLS] q : where is [SEP] a : mat [SEP]"


def test_one_separator_is_what_fairseq_puts_between_question_and_answer(tmp_path):
    file, roberta = (
        jsonl(tmp_path / "t.jsonl", [CSQA]),
        byte_pairs(["Q: A: where is the cat mat park in it big"]),
    )
    both = {}
    for separators, longest in (("tokenizer", 128), ("one", 128), ("one", 18)):
        settings = TaskSettings(
            name="commonsense-qa", train=file, validation=file, separators=separators, max_length=longest
        )
        task = build_task(settings)
        example = task.prepare("train", roberta)[0]
        both[separators, longest] = roberta.decode(example["input_ids"][0])
        assert list(map(len, example["input_ids"])) == list(map(len, example["attention_mask"]))
        assert ("one separator" in task.preprocessing()) == (separators == "one")
        assert max(map(len, example["input_ids"])) <= longest
    assert both["tokenizer", 128] == "<s>Q: where is the cat</s></s>A: mat</s>"
    assert both["one", 128] == "<s>Q: where is the cat</s>A: mat</s>"
    assert both["one", 18].startswith("<s>Q: wh")
    assert both["one", 18].endswith("</s>A: mat</s>")
    bert = build_task(TaskSettings(name="commonsense-qa", train=file, validation=file, separators="one"))
    tokens = TOKENIZER.convert_ids_to_tokens(bert.prepare("train", TOKENIZER)[0]["input_ids"][0])
    assert " ".join(tokens) == "[CLS] q : where is the cat [SEP] a : mat [SEP]"
    with pytest.raises(
        UserError, match=r"^task\.separators: value one: .* puts no separator between texts: leave it out"
    ):
        bert.prepare("train", byte_pairs_without_padding(["where is the cat"]))


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("sst2", {"loss": "margin"}, "loss: value margin: the task sst2"),
        ("commonsense-qa", {"loss": "margin"}, "loss: value margin: the task commonsense-qa"),
        ("sst2", {"separators": "one"}, "separators: value one: the task sst2"),
        ("winogrande", {"loss": "margin", "separators": "one"}, "separators: value one: the task winogrande"),
        ("winogrande", {"alpha": 3.0}, r"alpha: value 3\.0: the task winogrande"),
        ("sst2", {"thresholds": (1.0,)}, r"thresholds: value \(1\.0,\): the task sst2"),
    ],
)
def test_settings_that_a_task_does_not_have_are_refused(name, settings, field):
    with pytest.raises(UserError, match=rf"^task\.{field} has no such setting: leave it out"):
        build_task(TaskSettings(name=name, **settings))


def test_race_on_both_levels_is_scored_by_level(tmp_path):
    articles = []
    for split in ("train", "test"):
        for level, answers in (("middle", "AB"), ("high", "C")):
            folder = tmp_path / split / level
            folder.mkdir(parents=True)
            article = {"id": f"{level}1.txt", "article": "text", "questions": ["who"] * len(answers)}
            articles.append(article | {"options": [list("abcd")] * len(answers), "answers": list(answers)})
            (folder / "1.txt").write_text(json.dumps(articles[-1]))
    task = build_task(
        TaskSettings(name="race", train=str(tmp_path / "train"), validation=str(tmp_path / "test"))
    )
    data = task.prepare("validation", TOKENIZER)
    assert data["labels"][:] == [0, 1, 2]
    scores = task.score([0, 0, 2], data)
    assert scores == {"accuracy": pytest.approx(2 / 3), "accuracy_high": 1, "accuracy_middle": 0.5}
    assert "group" not in task.samples(data)
    assert "group" not in task.collate(TOKENIZER)([data[0]])
    lines = jsonl(tmp_path / "all.jsonl", articles[:2])
    single = build_task(TaskSettings(name="race", train=lines, validation=lines))
    assert single.load("train").to_dict() == task.load("train").to_dict()
    assert [one.parts["train"].examples for one in task.benchmarks] == [25_421, 62_445]
    with pytest.raises(UserError, match=r"middle: 2 examples where RACE, middle school has 25,421"):
        build_task(TaskSettings(name="race", folder=str(tmp_path))).load("train")


def test_labels_of_own_data_may_be_letters_or_numbers(tmp_path):
    rows = [{"q": "where is the cat", "c": ["mat", "park", "big"], "y": y} for y in ("C", 0, "1")]
    file = tmp_path / "t.jsonl"
    jsonl(file, [{**row, "y": str(row["y"])} for row in rows])
    settings = TaskSettings(
        name="multiple-choice", train=str(file), validation=str(file), text="q", text_pair="c", label="y"
    )
    task = build_task(settings)
    assert task.load("train")["labels"][:] == [2, 0, 1]
    assert task.load("train")["second"][0] == ["mat", "park", "big"]
    assert task.classes(None) == {"logits": 3}


def test_the_score_is_the_share_of_right_choices():
    task = build_task(TaskSettings(name="commonsense-qa"))
    assert task.score([1, 0, 3, 4], Dataset.from_dict({"labels": [1, 2, 3, 3]})) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (commonsense_qa, {**CSQA, "answerKey": "F"}, r"row 1: answerKey 'F' is not one of A, B, C, D, E: use a split"),
        (winogrande, {**WINOGRANDE, "answer": "3"}, r"row 1: answer '3' is neither 1 nor 2: use a split whose"),
        (winogrande, {**WINOGRANDE, "sentence": "No."}, r"row 1: the sentence has no blank, _: use a split whose"),
        (winogrande, {"sentence": "_"}, r"no column 'answer': the columns are sentence: give the task's own file"),
        (race, {"article": "a", "question": 1, "options": ["a"], "answer": "A"}, r"holds int, not text: give the"),
        (
            race,
            {"article": "a", "question": "q", "options": ["a"], "answer": "x"},
            r"'x' in column 'answer' is not a l",
        ),
    ],
)  # fmt: skip
def test_rows_that_are_refused(read, row, message):
    with pytest.raises(UserError, match=message):
        read(rows_of(row))


def own(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any):
    file = jsonl(tmp_path / "t.jsonl", rows)
    return build_task(TaskSettings(name="multiple-choice", train=file, validation=file, **settings))


def test_different_numbers_of_choices_are_refused(tmp_path):
    task = own(tmp_path, [{"question": "q", "choices": ["a", "b"][: 2 - i], "label": 0} for i in range(2)])
    with pytest.raises(UserError, match=r"t\.jsonl: question 2: 1 choices where 2 are expected: fix it$"):
        task.load("train")


def test_an_answer_that_is_not_a_choice_is_refused(tmp_path):
    task = own(tmp_path, [{"question": "q", "choices": ["a", "b"], "label": 2}])
    with pytest.raises(UserError, match=r"t\.jsonl: question 1: label 2 is not one of 0 to 1: fix it$"):
        task.load("train")


def test_choices_that_do_not_fit_are_refused(tmp_path):
    task = own(
        tmp_path,
        [{"question": "cat", "choices": ["it is too big in the park"] * 2, "label": 0}],
        max_length=8,
    )
    with pytest.raises(
        UserError, match=r"task\.max_length: 8: the longest choice has 9 tokens, which leaves nothing for"
    ):
        task.prepare("train", TOKENIZER)
