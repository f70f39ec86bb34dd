"""Equations: their values by hand, the decoder's vocabulary, what counts as correct, and what is refused."""

import pytest

from dsprune.errors import UserError
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.recipe.sections import Task as TaskSettings
from dsprune.tasks.equations import END, NUM_SPECIAL
from dsprune.tasks.prefix import evaluate_prefix, symbols_of
from dsprune.tasks.task import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import table
from dsprune.testing.kinds.models import word_piece

ROWS = [
    {
        "Question": "cats number0 and number1",
        "Numbers": "8.0 2",
        "Equation": "+ number0 number1",
        "Answer": "10",
    },
    {"Question": "half of number0", "Numbers": "9", "Equation": "* number0 0.5", "Answer": "4.5"},
    {"Question": "of number0 and number1", "Numbers": "3 12", "Equation": "/ number1 number0", "Answer": "4"},
]
TOKENIZER = word_piece([row["Question"] for row in ROWS])


@pytest.mark.parametrize(
    ("expression", "numbers", "value"),
    [
        ("+ number0 number1", [8, 2], 10),
        ("- number1 number0", [8, 2], -6),
        ("/ * number0 number1 2.0", [6, 4], 12),
        ("* number0 - 1.0 * number1 0.01", [200, 25], 150),  # a quarter off
        ("number2", [1, 2, 3], 3),
        ("/ number0 number1", [1, 0], None),
        ("+ number0", [1], None),
        ("+ number0 number0 number0", [1], None),
        ("number1", [1], None),
        ("", [1], None),
        ("+ number0 what", [1], None),
        ("* 1e300 1e300", [], None),
        ("+ " * 5000, [], None),
    ],
)
def test_values(expression, numbers, value):
    assert evaluate_prefix(expression.split(), numbers) == (None if value is None else pytest.approx(value))


def test_symbols_are_operators_slots_and_constants_in_order():
    equations = [["+", "number0", "100.0"], ["*", "number1", "0.5"], ["-", "7.0", "0.5"]]
    assert symbols_of(equations, 3) == (
        "+",
        "-",
        "*",
        "/",
        "number0",
        "number1",
        "number2",
        "0.5",
        "7.0",
        "100.0",
    )


def task_on(tmp_path, rows=ROWS, validation=None, **settings):
    train = table(tmp_path / "train.csv", rows)
    files = {"train": train, "validation": table(tmp_path / "validation.csv", validation or rows)}
    return build_task(TaskSettings(name="equation-generation", **files, **settings))


def test_an_equation_in_classes(tmp_path):
    task = task_on(tmp_path)
    assert task.symbols == ("+", "-", "*", "/", "number0", "number1", "0.5")
    example = task.prepare("train", TOKENIZER)[1]
    assert [task.symbols[label - NUM_SPECIAL] for label in example["labels"][:-1]] == ["*", "number0", "0.5"]
    assert example["labels"][-1] == END
    assert example["input_ids"] == TOKENIZER("half of number0")["input_ids"]


def test_an_output_is_correct_if_it_has_the_value_of_the_gold_equation(tmp_path):
    task = task_on(tmp_path)
    data = task.prepare("validation", TOKENIZER)

    def classes(equation: str) -> list[int]:
        return [NUM_SPECIAL + task.symbols.index(symbol) for symbol in equation.split()]

    swapped = [*classes("+ number1 number0"), END, 0, 0]
    unfinished = classes("* number0")
    other = [*classes("/ number0 number1"), END]
    assert task.score([swapped, unfinished, other], data) == {"value_accuracy": pytest.approx(1 / 3)}


def test_a_constant_unknown_in_training_becomes_the_end(tmp_path):
    unseen = [{**ROWS[1], "Equation": "* number0 0.25"}]
    task = task_on(tmp_path, validation=unseen)
    assert task.prepare("validation", TOKENIZER)["labels"][0] == [5, 7, END, END]


def test_gold_equations_that_do_not_give_the_answer_are_listed_by_row(tmp_path):
    rounded = {**ROWS[2], "Numbers": "3 2", "Answer": "0.667"}
    wrong = {**ROWS[1], "Answer": "5.4"}
    assert task_on(tmp_path, [*ROWS, rounded]).remarks("train") == []
    assert task_on(tmp_path, [wrong, *ROWS, wrong]).remarks("train") == [
        "the equation does not give the answer in rows 1, 5"
    ]
    without = [{name: row[name] for name in row if name != "Answer"} for row in ROWS]
    assert task_on(tmp_path, without).remarks("train") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"Equation": "+ number0"},
            r"train\.csv: row 1: '\+ number0' has no value with 2 numbers: give an equation",
        ),
        ({"Equation": "+ " * 16 + "number0 " * 17}, r"train\.csv: row 1: 33 symbols: shorten it to 31$"),
        (
            {"Numbers": "8 two"},
            r"train\.csv: row 1: '8 two' in column 'Numbers' is not a list of numbers: fix it$",
        ),
    ],
)
def test_rows_that_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        task_on(tmp_path, [{**ROWS[0], **change}]).load("train")


def test_another_benchmarks_columns_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"no column 'Numbers': the columns are text: give the task's own file$"
    ):
        task_on(tmp_path, [{"text": "a"}]).load("train")


def test_models_that_are_refused(tmp_path):
    task = task_on(tmp_path)
    plain = str(models.save(tmp_path / "plain", models.bert, TOKENIZER))
    tokenizer = load_tokenizer(plain)
    with pytest.raises(UserError, match=r"^task\.max_length: 128: the model takes at most 64 tokens"):
        task.build_model(plain, tokenizer)
    task = task_on(tmp_path, max_length=40)
    with pytest.raises(UserError, match=r"has no decoder for equations: fine-tune it first$"):
        task.build_model(plain, tokenizer, new_head=False)
    task.build_model(plain, tokenizer).save_pretrained(tmp_path / "trained")
    tokenizer.save_pretrained(tmp_path / "trained")
    trained = str(tmp_path / "trained")
    assert load_config(trained).equation_symbols == list(task.symbols)
    other = task_on(tmp_path, ROWS[:1], max_length=40)
    with pytest.raises(
        UserError, match=r"does not have the symbols \+ - \* / number0 number1: choose a model"
    ):
        other.build_model(trained, tokenizer)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mawps", 5 * [(1_537, 384)]), ("asdiv-a", [*3 * [(979, 238)], (980, 237), (951, 266)])],
)
def test_the_sizes_of_all_folds_are_known(name, sizes):
    tasks = [build_task(TaskSettings(name=name, folder="data", fold=fold)) for fold in range(5)]
    parts = [task.benchmark.parts for task in tasks]
    assert [(part["train"].examples, part["validation"].examples) for part in parts] == sizes


def test_folds_are_folders(tmp_path):
    task = build_task(TaskSettings(name="mawps", folder=str(tmp_path), fold=3))
    table(tmp_path / "cv_mawps" / "fold3" / "train.csv", ROWS)
    with pytest.raises(
        UserError, match=r"cv_mawps/fold3/train.csv: 3 examples where MAWPS, fold 3 of 5 has 1,537"
    ):
        task.load("train")
