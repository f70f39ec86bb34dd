"""Everything that training would refuse is refused by `plan`, and by `train` before it joins ranks and compiles."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from dsprune.commands.plan.make import make_plan
from dsprune.commands.plan.plan import plan
from dsprune.errors import UserError
from dsprune.model.pretrained import load_tokenizer
from dsprune.model.skeleton import without_weights
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import load_recipe
from dsprune.tasks.build import build_task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train import train as training
from dsprune.train.preflight import preflight
from tests.printing import printed

ALONE = Ranks(0, 0, 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    tiny_bert(folder / "model")
    tiny_sentiment(folder / "data", 320)
    return folder


@pytest.fixture
def here(original: Path, tmp_path: Path) -> Path:
    """A folder with a model, data and a recipe that trains."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    write_recipe(tmp_path / "recipe.yaml", tmp_path / "model", tmp_path / "data")
    return tmp_path


def test_a_plan_names_the_classes_and_counts_the_examples(here: Path) -> None:
    text = printed(plan, load_recipe(str(here / "recipe.yaml")), 1, None, None, None)
    rows = (here / "data" / "train.csv").read_text().splitlines()
    num_positive = sum(row.endswith(",positive") for row in rows)
    assert f"2 classes: negative ({320 - num_positive}), positive ({num_positive})" in text
    assert "320 examples" in text
    assert "not checked" not in text


def test_the_skeleton_is_the_model_without_weights(here: Path) -> None:
    path = str(here / "model")
    task = build_task(load_recipe(str(here / "recipe.yaml")).task)
    tokenizer = load_tokenizer(path)
    model = task.build_model(path, tokenizer)
    with without_weights():
        skeleton = task.build_model(path, tokenizer)
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    assert {k: v.shape for k, v in skeleton.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert skeleton.config.id2label == model.config.id2label
    assert torch.zeros(1).device.type == "cpu"


def truncate(here: Path) -> None:
    file = here / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def reshape(here: Path) -> None:
    file = here / "model" / "model.safetensors"
    save_file(load_file(file) | {"classifier.weight": torch.zeros(3, 32)}, file)


def pickle(here: Path) -> None:
    (here / "model" / "model.safetensors").unlink()
    torch.save({"weight": Path("x")}, here / "model" / "pytorch_model.bin")


def lose_a_weight(here: Path) -> None:
    file = here / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "word_emb" not in k}, file, {"format": "pt"})


def name_in_index(here: Path, file: str) -> None:
    index = {"weight_map": {"classifier.weight": file}}
    (here / "model" / "model.safetensors.index.json").write_text(json.dumps(index))


def lose_a_shard(here: Path) -> None:
    (here / "model" / "model.safetensors").unlink()
    name_in_index(here, "model-00001-of-00002.safetensors")


def leave_the_folder(here: Path) -> None:
    weights = here / "model" / "model.safetensors"
    weights.rename(here / "weights.safetensors")
    name_in_index(here, "../weights.safetensors")


def configure(key: str, value: Any) -> Callable[[Path], None]:
    def change(here: Path) -> None:
        file = here / "model" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))

    return change


def nothing(here: Path) -> None:
    """Change no file."""


REFUSED: tuple[tuple[Callable[[Path], None], list[str], str], ...] = (
    (nothing, ["deepspeed=zero5"], r"zero5"),
    (nothing, ["deepspeed={here}/none.json"], r"none\.json"),
    (nothing, ["distillation={{teacher: nope}}"], r"nope"),
    (nothing, ["distillation={{teacher: {here}/data}}"], r"data"),
    (nothing, ["model.path={here}/model/config.json"], r"config\.json'?: is a file: give the folder"),
    (nothing, ["model.tokenizer={here}/data"], r"data'?: no tokenizer files there"),
    (nothing, ["model.layers=[5]"], r"model\.layers: \[5\]"),
    (nothing, ["task.train={here}/none.csv"], r"task\.train: .*none\.csv: no such file"),
    (nothing, ["task.validation={here}/none.csv"], r"task\.validation: .*none\.csv: no such file"),
    (nothing, ["task.max_length=512"], r"task\.max_length: 512"),
    (nothing, ["pruning.include=['*nothing*']"], r"pruning\.include: '\*nothing\*'"),
    (nothing, ["learning_rate.scale={{'*nothing*': 2}}"], r"learning_rate\.scale: '\*nothing\*'"),
    (nothing, ["budget.batch=321"], r"budget\.batch: 321 is more than the 320 training examples"),
    (lambda here: (here / "model" / "model.safetensors").unlink(), [], r"model.: no weights there"),
    (truncate, [], r"model\.safetensors: .*: copy or download it again"),
    (reshape, [], r"classifier\.weight has the shape \[3, 32\] in its file and \[2, 32\]"),
    (pickle, [], r"its \.bin files hold more than weights.*: give a copy in safetensors"),
    (lose_a_weight, [], r"its files lack bert\.embeddings\.word_embeddings\.weight"),
    (lose_a_shard, [], r"index\.json lists model-00001-of-00002\.safetensors, which is missing"),
    (leave_the_folder, [], r"index\.json: not an index .*weight_map\.classifier\.weight: .*\.\./weights\.safetensors"),
    (configure("transformers_weights", "x.safetensors"), [], r"config\.json: transformers_weights: 'x\.safetensors'"),
    (configure("architectures", [{"x": 1}]), [], r"architectures.*\{'x': 1\}"),
    (configure("architectures", "BertModel"), [], r"architectures.*'BertModel'"),
    (configure("num_hidden_layers", -1), [], r"num_hidden_layers: -1 is not between 1 and 10,000"),
    (configure("num_hidden_layers", 10**8), [], r"num_hidden_layers: 100000000 is not between"),
    (lambda here: (here / "model" / "tokenizer.json").unlink(), [], r"tokenizer .*model'?: has only its 5 special"),
)  # fmt: skip


@pytest.mark.parametrize(("damage", "overrides", "message"), REFUSED)
def test_what_training_would_refuse_is_refused_first(
    damage: Callable[[Path], None],
    overrides: list[str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(here)
    recipe = load_recipe(str(here / "recipe.yaml"), [one.format(here=here) for one in overrides])
    with pytest.raises(UserError, match=message):
        make_plan(recipe, 1)

    def join(*_: object) -> None:
        raise AssertionError("ranks were joined")

    monkeypatch.setattr(training, "join_ranks", join)
    with pytest.raises(UserError, match=message):
        training.train(recipe, ALONE, Console(quiet=True))


def test_a_finished_run_is_refused_before_ranks_are_joined(here: Path) -> None:
    run = here / "runs" / "recipe"
    run.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"runs/recipe: holds a finished run"):
        training.train(load_recipe(str(here / "recipe.yaml")), ALONE, Console(quiet=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["deepspeed=zero5"], "zero5"),
        (["distillation={teacher: nope}"], "nope"),
        (["model.path=nope"], "nope"),
    ],
)
def test_a_plan_without_data_checks_the_rest(overrides: list[str], message: str, here: Path) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(load_recipe(str(here / "recipe.yaml"), overrides), 1, 320)


def test_a_plan_without_data_says_so(here: Path) -> None:
    (here / "model" / "model.safetensors").unlink()
    made = make_plan(load_recipe(str(here / "recipe.yaml")), 1, 320)
    assert made.remarks == (
        "not checked: data, labels, tokenizer, weights and store, because --train-examples is given",
    )


def test_a_plan_without_data_counts_all_embedding_rows(here: Path) -> None:
    recipe = load_recipe(str(here / "recipe.yaml"), ["model.vocabulary=used"])
    sketch, made = make_plan(recipe, 1, 320), make_plan(recipe, 1)
    assert sketch.num_weights == made.num_weights + made.num_missing
    assert sketch.remarks[1] == "counted with all embedding rows: the used ones are not known"


def remarks_of(here: Path, *overrides: str) -> list[str]:
    return list(preflight(load_recipe(str(here / "recipe.yaml"), overrides), ALONE).remarks())


def test_validation_examples_that_are_trained_on_are_counted(here: Path) -> None:
    train, validation = (here / "data" / f"{split}.csv" for split in ("train", "validation"))
    first = train.read_text().splitlines()[1]
    validation.write_text(f"text,label\n{first}\nthe film was so so so so so bad,negative\n{first}\n")
    (remark,) = remarks_of(here)
    assert remark.startswith("task.validation: 2 of 3 examples are in the training data too")


def test_inputs_that_are_cut_off_are_counted(here: Path) -> None:
    remarks = remarks_of(here, "task.max_length=8")
    rows = (here / "data" / "train.csv").read_text().splitlines()[1:]
    num_long = sum(len(row.replace(".,", " .,").split()) + 2 >= 8 for row in rows)
    assert (
        f"task.train: {num_long} of 320 examples have 8 tokens, the most that task.max_length allows"
        in remarks[0]
    )
    assert remarks[1].startswith("task.validation: ")


def test_equal_inputs_of_several_labels_are_counted(here: Path) -> None:
    with (here / "data" / "train.csv").open("a") as file:
        file.write("the film was so so so,negative\nthe film was so so so,positive\n")
    assert (
        "task.train: 2 of 322 examples have the inputs of another example, but another label"
        in remarks_of(here)[0]
    )


def test_validation_data_of_one_label_are_said(here: Path) -> None:
    (here / "data" / "validation.csv").write_text("text,label\nthe film was so so so bad,negative\n")
    assert remarks_of(here) == ["task.validation: all examples have the same label: the metrics say little"]


def test_validation_tokens_that_the_tokenizer_does_not_know_are_counted(here: Path) -> None:
    (here / "data" / "validation.csv").write_text(
        "text,label\nxyz was zyx,negative\nthe film was good,positive\n"
    )
    (remark,) = remarks_of(here)
    assert remark.startswith("task.validation: 2 of 11 tokens are unknown to the tokenizer")


def test_the_monitor_of_deepspeed_needs_a_key(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(here / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (here / "ds.json").write_text(json.dumps({"wandb": {"enabled": True}}))
    recipe = load_recipe(str(here / "recipe.yaml"), [f"deepspeed={here / 'ds.json'}"])
    with pytest.raises(
        UserError, match=r"^ds_config: wandb\.enabled: no key for api\.wandb\.ai: .*WANDB_MODE=offline"
    ):
        preflight(recipe, ALONE)
    monkeypatch.setenv("WANDB_MODE", "offline")
    preflight(recipe, ALONE)
