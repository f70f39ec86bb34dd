"""Question answering: windows and answers by hand, SQuAD's own rules, and refused data."""

import gzip
import json
import re
import string
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import BertTokenizerLegacy

from dsprune.errors import UserError
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.spans import Candidates, best_span, find_tokens
from dsprune.testing.kinds.models import word_piece

CONTEXT = "the cat sat on the mat and the dog ran in the park"
TOKENIZER = word_piece([CONTEXT, "what did who run"])


def squad_file(path: Path, answers, context: str = CONTEXT, question: str = "what did the dog") -> str:
    asked = [
        {"id": f"q{i}", "question": question, "answers": [{"text": t, "answer_start": s} for t, s in found]}
        for i, found in enumerate(answers)
    ]
    articles = [{"title": "t", "paragraphs": [{"context": context, "qas": asked}]}]
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    return str(path)


def task_on(file: str, **settings):
    defaults = {"max_length": 14, "stride": 2}
    return build_task(TaskSettings(name="squad", train=file, validation=file, **(defaults | settings)))


def test_a_compressed_file_is_read(tmp_path):
    file = squad_file(tmp_path / "t.json", [[("ran", CONTEXT.index("ran"))]])
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + Path(file).read_bytes()))
    assert task_on(str(packed)).load("train").to_dict() == task_on(file).load("train").to_dict()


def test_windows_overlap_by_the_stride_and_each_has_its_answer(tmp_path):
    file = squad_file(tmp_path / "t.json", [[("ran", CONTEXT.index("ran"))]])
    windows = task_on(file).prepare("train", TOKENIZER)
    tokens = [" ".join(TOKENIZER.convert_ids_to_tokens(ids)) for ids in windows["input_ids"]]
    assert tokens == [
        "[CLS] what did the dog [SEP] the cat sat on the mat and [SEP]",
        "[CLS] what did the dog [SEP] mat and the dog ran in the [SEP]",
        "[CLS] what did the dog [SEP] in the park [SEP]",
    ]
    assert windows["start_positions"][:] == windows["end_positions"][:] == [0, 10, 0]
    assert windows["length"][:] == [14, 14, 10]
    start, end = windows["offsets"][1][10]
    assert CONTEXT[start:end] == "ran"
    assert windows["offsets"][1][:6] == [[-1, -1]] * 6


def test_questions_whose_answer_no_window_holds_are_counted(tmp_path):
    answers = [[("ran", CONTEXT.index("ran"))], [("cat sat on the mat and the dog ran", 4)]]
    task = task_on(squad_file(tmp_path / "t.json", answers))
    said = task.targets(task.prepare("train", TOKENIZER))
    assert said.startswith(
        "spans, in 6 windows of 2 questions; 1 of them have their answer whole in no window"
    )
    assert "task.max_length" in said
    task = task_on(squad_file(tmp_path / "t.json", answers[:1]))
    assert task.targets(task.prepare("train", TOKENIZER)) == "spans, in 3 windows of 1 questions"


@pytest.mark.parametrize(
    ("start", "text", "tokens"),
    [
        (0, "ab", (2, 2)),
        (3, "cd ef", (3, 4)),
        (4, "d", (3, 3)),  # inside a token: the token
        (6, "ef gh", (0, 0)),  # continues after the window
        (9, "gh", (0, 0)),
    ],
)
def test_an_answer_in_tokens(start, text, tokens):
    """The window has the first three words of `ab cd ef gh`."""
    offsets = [[-1, -1], [-1, -1], [0, 2], [3, 5], [6, 8], [-1, -1]]
    assert find_tokens(offsets, start, text) == tokens


def test_the_best_span_is_part_of_the_text():
    offsets = [[-1, -1], [0, 2], [3, 5], [6, 8], [-1, -1]]
    candidates = Candidates([0, 3, 1], [9.0, 5.0, 4.0], [4, 2, 3], [9.0, 3.0, 2.0])
    # 0 and 4 are not text, 3..2 is backwards, 3..3 has 5 + 2 and 1..2 has 4 + 3, which comes later.
    assert best_span(candidates, offsets, max_answer=30) == (7.0, 6, 8)
    assert best_span(candidates._replace(end_logits=[9.0, 3.5, 2.0]), offsets, 30) == (7.5, 0, 5)
    assert best_span(candidates._replace(end_logits=[9.0, 3.5, 2.0]), offsets, 1) == (7.0, 6, 8)
    assert best_span(Candidates([0], [1.0], [4], [1.0]), offsets, 30) == (-float("inf"), 0, 0)


def official(prediction: str, truths: list[str]) -> tuple[float, float]:
    """F1 and exact match as evaluate-v1.1.py defines them."""

    def normal(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def f1(truth: str) -> float:
        common = sum((Counter(normal(prediction)) & Counter(normal(truth))).values())
        if not common:
            return 0.0
        precision, recall = common / len(normal(prediction)), common / len(normal(truth))
        return 2 * precision * recall / (precision + recall)

    return max(map(f1, truths)), max(float(normal(prediction) == normal(truth)) for truth in truths)


def test_scores_are_the_official_ones_of_the_best_window(tmp_path):
    answers = [
        [("The dog", CONTEXT.index("the dog")), ("dog ran", CONTEXT.index("dog ran"))],
        [("park", CONTEXT.index("park"))],
        [("on the mat", CONTEXT.index("on the mat"))],
    ]
    task = task_on(squad_file(tmp_path / "t.json", answers))
    data = task.prepare("validation", TOKENIZER)
    assert data["id"][:] == [f"q{i}" for i in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    # for each window of each question: first token, last token and sum of logits
    said = (
        [(9, 9, 1.0), (8, 10, 2.0), (6, 6, 0.0)]
        + [(9, 10, 3.0), (9, 9, 1.0), (8, 8, 2.0)]
        + [(6, 6, 0.0)] * 3
    )
    predictions = [Candidates([start], [logit], [end], [0.0]) for start, end, logit in said]
    texts = ["the dog ran", "on the", "the"]
    expected = [official(text, [t for t, _ in found]) for text, found in zip(texts, answers, strict=True)]
    scores = task.score(predictions, data)
    assert scores["f1"] == pytest.approx(sum(f1 for f1, _ in expected) / 3)
    assert scores["exact_match"] == pytest.approx(sum(match for _, match in expected) / 3)
    assert list(scores) == ["f1", "exact_match"]


def test_rows_of_the_hub_read_the_same(tmp_path):
    file = squad_file(tmp_path / "t.json", [[("cat", 4)]])
    row = {
        "id": "q0",
        "question": "what did the dog",
        "context": CONTEXT,
        "answers": {"text": ["cat"], "answer_start": [4]},
    }
    Dataset.from_list([row]).to_parquet(tmp_path / "t.parquet")
    assert (
        task_on(str(tmp_path / "t.parquet")).load("train").to_dict() == task_on(file).load("train").to_dict()
    )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([[]], r"t\.json: row 1: has no answer: use data in which"),
        ([[("cat", None)]], r"row 1: .* in column 'answers' is not"),
        ([[("x", 99)]], r"its answer begins outside the context: fix"),
    ],
)
def test_answers_that_are_refused(tmp_path, answers, message):
    with pytest.raises(UserError, match=message):
        task_on(squad_file(tmp_path / "t.json", answers)).load("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog", r"row 1: at answer_start 4 the context is 'cat', not 'dog': fix one of them"),
        ("", r"row 1: .* in column 'answers' is not a list of texts and one of answer_start"),
        ("NaN", r"row 1: at answer_start 4 the context is 'cat', not 'NaN': fix one of them"),
        (None, r"row 1: .* in column 'answers' is not a list of texts"),
    ],
)
def test_answers_in_a_file_of_ones_own_are_checked(tmp_path, text, message):
    file = tmp_path / "t.jsonl"
    row = {
        "id": "q",
        "question": "what",
        "context": CONTEXT,
        "answers": {"text": [text], "answer_start": [4]},
    }
    file.write_text(f"{json.dumps(row)}\n")
    with pytest.raises(UserError, match=message):
        build_task(TaskSettings(name="question-answering", train=str(file))).load("train")


def test_an_answer_that_the_context_has_may_be_any_word(tmp_path):
    file = tmp_path / "t.jsonl"
    answers = {"text": ["None"], "answer_start": [0]}
    row = {"id": "q", "question": "how many", "context": "None of them slept.", "answers": answers}
    file.write_text(f"{json.dumps(row)}\n")
    [found] = build_task(TaskSettings(name="question-answering", train=str(file))).load("train")["texts"]
    assert found == ["None"]


def test_questions_with_the_same_id_are_refused(tmp_path):
    file = tmp_path / "t.jsonl"
    answers = {"text": ["cat"], "answer_start": [4]}
    row = {"id": "q", "question": "what", "context": CONTEXT, "answers": answers}
    file.write_text(f"{json.dumps(row)}\n" * 2)
    with pytest.raises(UserError, match=r"t\.jsonl: 2 questions have the id 'q': give each its own"):
        task_on(str(file)).load("train")


@pytest.mark.parametrize("content", ['{"rows": []}', '[{"question": "what"}]'])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    says = r"^task\.train: .*t\.json: not a valid json file: it is not in SQuAD's format: .* as \.jsonl$"
    with pytest.raises(UserError, match=says):
        task_on(str(tmp_path / "t.json")).load("train")


def test_a_file_without_answers_is_refused_by_the_name_of_the_field(tmp_path):
    articles = [{"paragraphs": [{"context": CONTEXT, "qas": [{"id": "q", "question": "what"}]}]}]
    (tmp_path / "t.json").write_text(json.dumps({"data": articles}))
    with pytest.raises(UserError, match=r"^task\.train: .*t\.json: not a valid json file: has no 'answers'$"):
        task_on(str(tmp_path / "t.json")).load("train")


def test_a_question_that_leaves_no_room_is_refused(tmp_path):
    file = squad_file(tmp_path / "t.json", [[("cat", 4)]])
    with pytest.raises(
        UserError, match=r"^task\.max_length: 10: a question of 6 tokens and a stride of 2 leave no room"
    ):
        task_on(file, max_length=10).prepare("train", TOKENIZER)


def test_a_tokenizer_without_offsets_is_refused(tmp_path):
    file = squad_file(tmp_path / "t.json", [[("cat", 4)]])
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(TOKENIZER.get_vocab()))
    slow = BertTokenizerLegacy(str(vocabulary))
    with pytest.raises(
        UserError, match=r"^model\.tokenizer: BertTokenizerLegacy does not return the positions"
    ):
        task_on(file).prepare("train", slow)
