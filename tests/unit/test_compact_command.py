"""`dsprune export` with `--compact` and `--expand`: of runs, and refused inputs."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dsprune
from dsprune.checkpoint.compact.format import COMPACT
from dsprune.checkpoint.tag_files import TAG_MANIFEST
from dsprune.commands.cli.main import run_command
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.testing.tiny import tiny_sentiment, write_recipe
from dsprune.utils.files import sha256_of
from dsprune.zero.layout import PARAMETER_ORDER
from tests.scripts import SCRIPTS, load, table_rows
from tests.unit.sparse import QUERY, bert, change_weights, same, sparse_bert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sparse BERT."""
    return sparse_bert(tmp_path / "model")


def test_a_compact_folder_is_no_model_to_train_or_evaluate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact, data = tmp_path / "compact", tiny_sentiment(tmp_path / "data")
    assert run_command(["export", str(folder), "--compact", "--to", str(compact)]) == 0
    recipe = write_recipe(tmp_path / "r.yaml", compact, data)
    for command in (["plan", str(recipe)], ["eval", str(compact), f"validation={data}/validation.csv"]):
        capsys.readouterr()
        assert run_command(command) == 2
        assert re.search(rf"{compact}'?: the compact form .* --expand --to FOLDER", capsys.readouterr().err)


# ---- runs


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A run in fp16 with a checkpoint of stage 0, as DeepSpeed writes it, of the sparse BERT in fp32."""
    run = tmp_path / "run"
    tag = run / "checkpoints" / "global_step10"
    tag.mkdir(parents=True)
    write_recipe(run / "recipe.yaml", folder, tiny_sentiment(tmp_path / "data"), precision="fp16")
    change_weights(folder, lambda tensor: tensor * 1e-5)  # some become 0 in fp16, from either side
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    counters = {"global_steps": 10, "skipped_steps": 0, "global_samples": 320, "lr_scheduler": None}
    states = {
        "module": model.state_dict(),
        "optimizer": {"state": {}},
        PARAMETER_ORDER: [name for name, _ in model.named_parameters()],
    }
    torch.save(states | counters, tag / "mp_rank_00_model_states.pt")
    for name in (MANIFEST, *(entry.file for entry in read_manifest(folder).files)):
        shutil.copy(folder / name, tag)
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in tag.iterdir()}
    (tag / TAG_MANIFEST).write_text(json.dumps({"format": 1, "step": 10, "files": files}))
    return run


@pytest.mark.parametrize("options", [[], ["--tag", "global_step10"]])
def test_a_checkpoint_goes_straight_to_the_compact_form(
    run: Path, tmp_path: Path, options: list[str]
) -> None:
    compact, expanded, plain = tmp_path / "compact", tmp_path / "expanded", tmp_path / "plain"
    assert run_command(["export", str(run), "--to", str(plain), *options]) == 0
    assert run_command(["export", str(run), "--compact", "--to", str(compact), *options]) == 0
    assert run_command(["export", str(compact), "--expand", "--to", str(expanded)]) == 0
    assert run_command(["audit", str(plain)]) == run_command(["audit", str(expanded)]) == 0
    weights = load_file(plain / "model.safetensors")
    assert same(weights, load_file(expanded / "model.safetensors"))
    assert same(weights, dict(dsprune.load_compact(compact).state_dict()))
    assert {path.name for path in expanded.iterdir()} == {path.name for path in plain.iterdir()}
    assert not any(path.is_dir() for path in compact.iterdir())
    assert AutoTokenizer.from_pretrained(compact)("the film was good")["input_ids"]


@pytest.mark.parametrize("options", [[], ["--compact"]])
def test_an_older_checkpoint_is_not_taken_without_a_word(
    run: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").write_text(json.dumps({"metrics": {"accuracy": 0.8125}, "steps": 20}))
    (run / "checkpoints" / "global_step20").mkdir()
    (run / "checkpoints" / "latest").write_text("global_step20")
    assert run_command(["export", str(run), "--to", str(tmp_path / "new"), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "global_step20: not complete: global_step10 is exported instead" in said
    assert "0.8125" not in (tmp_path / "new" / "README.md").read_text(), "the metrics are those of step 20"


def test_no_zero_of_an_exported_model_is_negative(run: Path, tmp_path: Path) -> None:
    assert run_command(["export", str(run), "--to", str(tmp_path / "plain")]) == 0
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    exact = load_file(tmp_path / "model" / "model.safetensors")
    assert any((weights[name] == 0).sum() > (exact[name] == 0).sum() for name in weights)
    assert not any(torch.signbit(tensor[tensor == 0]).any() for tensor in weights.values())


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (["--tag", "best"], "--tag: value best: no such checkpoint: use one of global_step10"),
        ([], "global_step10: no dsprune.json, so no masks: give a folder that dsprune wrote"),
    ],
)
def test_a_run_without_the_checkpoint_or_its_masks_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], tag: list[str], message: str
) -> None:
    (run / "checkpoints" / "global_step10" / TAG_MANIFEST).write_text('{"step": 10, "files": {}}')
    (run / "checkpoints" / "global_step10" / MANIFEST).unlink()
    new = run.with_name("new")
    assert run_command(["export", str(run), "--compact", "--to", str(new), *tag]) == 2
    assert message in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 1}, r"holds 36 weights bert\.encoder\.layer\.1\..* has none"),
        ({"intermediate_size": 8}, r"holds 42 weights bert\..*intermediate\.dense\.weight, .* has 48"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--compact"]])
def test_a_checkpoint_of_another_model_is_refused(
    run: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    sizes: dict[str, int],
    message: str,
    options: list[str],
) -> None:
    bert(**sizes).save_pretrained(folder)
    new = run.with_name("new")
    assert run_command(["export", str(run), "--to", str(new), *options]) == 2
    assert re.search(rf"global_step10: {message}", capsys.readouterr().err)
    assert not new.exists()


# ---- the table


def test_the_table_gives_the_bytes_of_each_form(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    load("compact_table").main(folder, folder, None)
    rows = table_rows(capsys.readouterr().out)
    forms = ["dense", "sparse, as safetensors", "compact", "compact, bf16", "compact, fp16"]
    assert [row[0] for row in rows] == forms
    files = ("model.safetensors", "masks-00000-of-00001.safetensors", MANIFEST)
    assert int(rows[1][1].replace(",", "")) == sum((folder / file).stat().st_size for file in files)
    assert rows[0][2] == "100%"


# ---- what has no compact form


def with_negative_zero(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[QUERY].view(-1)[int((weights[QUERY].view(-1) == 0).nonzero()[0])] = -0.0
    save_file(weights, folder / "model.safetensors")


def in_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {QUERY: weights[QUERY].view(4, 9)}, folder / "model.safetensors")


def without_masks(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def with_a_config_of_no_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def with_an_index(weight_map: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (without_masks, [], "no dsprune.json, so no masks: give a folder that dsprune wrote"),
        (with_negative_zero, [], f"{QUERY}: zeros of the weights are +0.0"),
        (lambda folder: change_weights(folder, torch.ones_like), [], "are zero: "),
        (in_another_shape, [], f"{QUERY} has shape (4, 9) there and (6, 6) in dsprune.json"),
        (with_an_index({QUERY: "../model/model.safetensors"}), [], "index.json: not an index of weight files"),
        (with_an_index({QUERY: 3}), [], "index.json: not an index of weight files"),
        (with_an_index([QUERY]), [], "index.json: not an index of weight files"),
        (with_a_config_of_no_model, ["--dtype", "fp16"], "correct config.json"),
        (lambda folder: None, ["--tag", "best"], "--tag: value best: "),
        (lambda folder: (folder / COMPACT).touch(), [], "is compact already: give"),
        (lambda folder: (folder.parent / "new").mkdir(), [], "exists already and is not overwritten"),
    ],
)  # fmt: skip
def test_what_has_no_compact_form_is_refused_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    options: list[str],
    message: str,
) -> None:
    damage(folder)
    before = sorted(folder.parent.iterdir())
    arguments = ["export", str(folder), "--compact", "--to", str(folder.parent / "new"), *options]
    assert run_command(arguments) == 2
    error_line = capsys.readouterr().err
    assert message in error_line
    assert error_line.count("\n") == 1
    assert sorted(folder.parent.iterdir()) == before, "nothing is left of it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "fp16"], "--dtype: value fp16: only for compact models: add --compact"),
        (["--expand", "--compact"], "--expand: value {folder}: takes neither --compact nor --tag"),
        (["--expand", "--tag", "best"], "--expand: value {folder}: takes neither --compact nor --tag"),
        (["--compact", "--dtype", "int8"], "Invalid value for '--dtype'"),
        (["--expand"], "{folder}: no compact.json: give a folder that dsprune export --compact wrote"),
        ([], "{folder}: no complete checkpoint there: give the folder of a run that has one"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run_command(["export", str(folder), "--to", str(folder.parent / "new"), *options]) == 2
    assert message.format(folder=folder) in capsys.readouterr().err
    assert not (folder.parent / "new").exists()
