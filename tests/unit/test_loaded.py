"""A model of which a weight is missing or not finite is refused, not filled with random values."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsprune.errors import UserError
from dsprune.model.model_files import ModelFiles
from dsprune.model.pretrained import load_saved, load_tokenizer
from dsprune.model.skeleton import without_weights
from dsprune.recipe import load_recipe
from dsprune.tasks.build import build_task
from dsprune.tasks.task import Task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe

LAST = "bert.encoder.layer.1.output.dense.weight"

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    tiny_bert(tmp_path / "model")
    tiny_sentiment(tmp_path / "data")
    return build_task(
        load_recipe(str(write_recipe(tmp_path / "r.yaml", tmp_path / "model", tmp_path / "data"))).task
    )


def change_weights(folder: Path, change: Change) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def without(*parts: str) -> Change:
    return lambda state: {
        name: value for name, value in state.items() if not any(part in name for part in parts)
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(LAST), rf"lack {LAST} and 0 other weights of BertForSequenceClassification"),
        (without("layer.1."), r"lack bert\.encoder\.layer\.1\..* and 15 other weights"),
        (without("word_embeddings"), r"lack bert\.embeddings\.word_embeddings\.weight"),
        (
            lambda state: state | {LAST.replace("1", "2"): state[LAST].clone()},
            r"hold .*layer\.2\..* and 0 other weights",
        ),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, r"weight module\.bert\..* wrapped"),
        (lambda state: {f"_orig_mod.{name}": value for name, value in state.items()}, r"_orig_mod\.bert\..* wrapped"),
        (lambda state: state | {LAST: torch.zeros(9, 64)}, rf"{LAST} has the shape \[9, 64\] .* \[32, 64\]"),
        (lambda state: state | {LAST: torch.ones(32, 64, dtype=torch.int8)}, rf"model\.safetensors: {LAST} .* int8, "),
        (lambda state: state | {LAST: torch.ones(32, 64).to(torch.float8_e4m3fn)}, rf"{LAST} is .* float8_e4m3fn, "),
        (lambda state: state | {LAST: torch.full((32, 64), torch.nan)}, rf"{LAST} holds 2,048 values that are NaN"),
        (lambda state: state | {LAST: torch.full((32, 64), -torch.inf)}, rf"{LAST} holds 2,048 values"),
    ],
)  # fmt: skip
def test_a_model_without_all_its_weights_is_refused(
    task: Task, tmp_path: Path, change: Change, says: str
) -> None:
    folder = tmp_path / "model"
    change_weights(folder, change)
    with pytest.raises(UserError, match=says):
        task.build_model(str(folder), load_tokenizer(str(folder)))
    with pytest.raises(UserError, match=says):
        load_saved(folder)
    if "2,048 values" not in says:
        with without_weights(), pytest.raises(UserError, match=says):
            task.build_model(str(folder), load_tokenizer(str(folder)))


def test_a_new_head_and_a_new_pooler_may_be_random_in_training_alone(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    change_weights(folder, without("pooler", "classifier"))
    tokenizer = load_tokenizer(str(folder))
    task.build_model(str(folder), tokenizer)
    with pytest.raises(UserError, match=r"lack classifier\.bias and 1 other weights"):
        task.build_model(str(folder), tokenizer, new_head=False)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: not a file"):
        ModelFiles(tmp_path)


def test_old_shards_beside_the_weights_are_not_read(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    save_file({LAST: torch.zeros(32, 64)}, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": {LAST: "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(ModelFiles(folder).tensor(LAST), load_saved(folder).state_dict()[LAST])


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("tokenizer_config.json", {"unk_token": ""}, r"unk_token: '' is not in its vocabulary"),
        ("config.json", {"id2label": {"0": "no", "1": 10**30}}, r"id2label: 10+ is not a name"),
        ("config.json", {"id2label": {"0": None}}, r"id2label: None is not a name"),
        ("config.json", {"id2label": 3}, r"^model '.*': 'int' object has no attribute 'items': correct config\.json$"),
        ("config.json", {"vocab_size": "x"}, r"^model '.*'vocab_size' expected int, got str .*: correct config\.json$"),
        ("config.json", {"hidden_act": "nope"}, r"config\.json: hidden_act: no such choice as 'nope': use another"),
        ("config.json", {"num_attention_heads": -4}, r"config\.json: num_attention_heads: -4 is not between 1 and"),
        ("config.json", {"num_attention_heads": 5}, r"multiple of .* attention heads \(5\): use another copy"),
        ("config.json", {"vocab_size": 50}, r"word_embeddings\.weight .* \[39, 32\] .* \[50, 32\] .*: correct config"),
    ],
)  # fmt: skip
def test_settings_of_another_type_are_named(
    task: Task, tmp_path: Path, file: str, change: dict[str, object], says: str
) -> None:
    path = tmp_path / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=says):
        task.build_model(str(path.parent), load_tokenizer(str(path.parent)))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_key_that_appears_twice_is_refused(task: Task, tmp_path: Path, file: str) -> None:
    path = tmp_path / "model" / file
    path.write_text(path.read_text().rstrip().removesuffix("}") + ', "twice": 1, "twice": 2}')
    with pytest.raises(UserError, match=rf"{file}: the key 'twice' appears twice: leave one of them out"):
        task.build_model(str(path.parent), load_tokenizer(str(path.parent)))


def test_a_file_of_a_tokenizer_that_holds_no_object_is_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "model" / "special_tokens_map.json").write_text("[]")
    with pytest.raises(UserError, match=r"special_tokens_map\.json: holds a list: give a JSON object"):
        load_tokenizer(str(tmp_path / "model"))


def test_a_truncated_tokenizer_is_named(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "model" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"tokenizer\.json: line \d+ is not JSON .*: correct the file"):
        load_tokenizer(str(path.parent))


def test_weights_that_are_code_are_not_read(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"its \.bin files hold more than weights.*: give a copy in safetensors$"
    ):
        task.build_model(str(folder), load_tokenizer(str(folder)))
