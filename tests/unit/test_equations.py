"""Equations: their values by hand, the decoder's vocabulary, correct answers, and refused data."""

import pytest
from safetensors.torch import load_file, save_file

from dsprune.errors import UserError
from dsprune.model.pretrained import load_config, load_tokenizer
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.equations import END, NUM_SPECIAL
from dsprune.tasks.prefix import evaluate_prefix, symbols_of
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import table
from dsprune.testing.kinds.models import word_piece

ROWS = [
    {"Question": question, "Numbers": numbers, "Equation": equation, "Answer": answer, "group_nums": "[0, 1]"}
    for question, numbers, equation, answer in [
        ("cats number0 and number1", "8.0 2", "+ number0 number1", "10"),
        ("half of number0", "9", "* number0 0.5", "4.5"),
        ("of number0 and number1", "3 12", "/ number1 number0", "4"),
    ]
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
        ("number-1", [1], None),
        ("", [1], None),
        ("+ number0 what", [1], None),
        ("* 1e300 1e300", [], None),
        ("+ " * 5000, [], None),
    ],
)
def test_prefix_expressions_are_evaluated(expression, numbers, value):
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
        ({"Equation": "+ number0"}, r"train\.csv: row 1: '\+ number0' has no value with 2 numbers: give an equation"),
        ({"Equation": "+ " * 16 + "number0 " * 17}, r"train\.csv: row 1: 33 symbols: shorten it to 31$"),
        ({"Numbers": "8 two"}, r"train\.csv: row 1: '8 two' in column 'Numbers' is not a list of numbers: fix it$"),
    ],
)  # fmt: skip
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


GTS = {"decoder": "gts", "decoder_size": 8, "max_length": 40}
GRAPH2TREE = {**GTS, "decoder": "graph2tree"}
TRANSFORMER = {"decoder": "transformer", "max_length": 40}


def often(row: dict[str, str]) -> list[dict[str, str]]:
    return [row] * 5


def test_a_tree_in_classes_with_pointers_to_the_numbers(tmp_path):
    swapped = {**ROWS[0], "Question": "number1 cats number0 and number0"}
    task = task_on(tmp_path, [swapped, ROWS[2], *often(ROWS[1])], **GTS)
    assert task.symbols == ("+", "-", "*", "/", "number0", "number1", "0.5", "?")
    data, mask = task.prepare("train", TOKENIZER), TOKENIZER.mask_token_id
    assert data["labels"][:3] == [[0, 4, 5], [3, 5, 4], [2, 4, 6]]
    assert [token == mask for token in data[0]["input_ids"]] == [False, True, False, True, False, True, False]
    assert data[0]["slots"] == [-1, 1, -1, 0, -1, -1, -1]  # of a repeated number, the first place
    batch = task.collate(TOKENIZER, 8)([data[0], data[2]])
    assert {name: list(part.shape) for name, part in batch.items()} == {
        **{name: [2, 8] for name in ("input_ids", "attention_mask", "slots")},
        "labels": [2, 3],
    }
    assert batch["slots"][1].tolist() == [-1, -1, -1, 0, -1, -1, -1, -1]
    assert task.score([[0, 5, 4, -1], [3, 4, 5, -1], [2, 4, 6, -1]], data.select(range(3))) == {
        "value_accuracy": pytest.approx(2 / 3)
    }


def test_constants_of_few_equations_share_a_class_that_is_no_answer(tmp_path):
    task = task_on(tmp_path, [*ROWS, *often({**ROWS[1], "Equation": "* number0 0.25"})], **GTS)
    assert task.symbols[-2:] == ("0.25", "?")
    data = task.prepare("train", TOKENIZER)
    assert data["labels"][1] == [2, 4, 7]
    assert task.score([[2, 4, 7]], data.select([1])) == {"value_accuracy": 0}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {"Question": "cats number0 and another"},
            {},
            r"train\.csv: row 1: number1 is not in column 'Question': task\.decoder: gts points to it: write it there",
        ),
        ({}, {"max_length": 4}, r"^task\.max_length: 4: the tokens of 'cats number0 and number1' hold 1 of 2 numbers"),
        (
            {"Question": "cats number0 [MASK] number1"},
            {},
            r"^task\.max_length: 40: .* hold 3 of 2 numbers: raise it, and leave \[MASK\] out",
        ),
    ],
)  # fmt: skip
def test_questions_that_gts_refuses(tmp_path, change, settings, message):
    with pytest.raises(UserError, match=message):
        task_on(tmp_path, [{**ROWS[0], **change}], **{**GTS, **settings}).prepare("train", TOKENIZER)


def test_tokenizers_and_settings_that_gts_refuses(tmp_path):
    with pytest.raises(UserError, match=r"^task\.decoder: gts: the tokenizer has no mask token"):
        task_on(tmp_path, **GTS).prepare("train", models.byte_pairs_without_padding(["a b"]))
    with pytest.raises(
        UserError, match=r"^task\.decoder_size: value 8: .* has no such setting: leave it out$"
    ):
        task_on(tmp_path, decoder_size=8)
    with pytest.raises(UserError, match=r"^task\.decoder: value gts: the task sst2 has no such setting"):
        build_task(TaskSettings(name="sst2", decoder="gts"))


@pytest.mark.parametrize(
    "solvers", [(GTS, TRANSFORMER), (TRANSFORMER, GTS), (GTS, GRAPH2TREE), (GRAPH2TREE, GTS)]
)
def test_a_model_with_the_other_decoder_is_refused(tmp_path, solvers):
    plain = str(models.save(tmp_path / "plain", models.bert, TOKENIZER))
    made, asked = (task_on(tmp_path, **solver) for solver in solvers)
    made.build_model(plain, TOKENIZER).save_pretrained(tmp_path / "trained")
    name = solvers[1]["decoder"]
    with pytest.raises(UserError, match=rf"^task\.decoder: {name}: model '.*trained' has another decoder"):
        asked.build_model(str(tmp_path / "trained"), TOKENIZER)


@pytest.mark.parametrize("solver", [GRAPH2TREE, TRANSFORMER])
def test_a_trained_model_without_weights_of_its_decoder_is_refused(tmp_path, solver):
    plain = str(models.save(tmp_path / "plain", models.bert, TOKENIZER))
    task = task_on(tmp_path, **solver)
    folder = tmp_path / "trained"
    task.build_model(plain, TOKENIZER).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("decoder.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"its files lack decoder\..* which would be random"):
        task.build_model(str(folder), TOKENIZER)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mawps", 5 * [(1_537, 384)]), ("asdiv-a", [*3 * [(979, 238)], (980, 237), (951, 266)])],
)
def test_the_sizes_of_all_folds_are_known(name, sizes):
    tasks = [build_task(TaskSettings(name=name, folder="data", fold=fold)) for fold in range(5)]
    parts = [task.benchmark.parts for task in tasks]
    assert [(part["train"].examples, part["validation"].examples) for part in parts] == sizes


def test_a_fold_is_read_from_its_folder(tmp_path):
    task = build_task(TaskSettings(name="mawps", folder=str(tmp_path), fold=3))
    table(tmp_path / "cv_mawps" / "fold3" / "train.csv", ROWS)
    with pytest.raises(
        UserError, match=r"cv_mawps/fold3/train.csv: 3 examples where MAWPS, fold 3 of 5 has 1,537"
    ):
        task.load("train")
