"""The card of a model folder, and the folder's way to the hub."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import BertModel

from dsprune.checkpoint.audit import audit_folder
from dsprune.checkpoint.file_list import list_model_folder
from dsprune.checkpoint.made import Made
from dsprune.checkpoint.model_card import CARD, write_card
from dsprune.commands.cli import run_command
from dsprune.commands.push import check_repository, upload
from dsprune.errors import UserError
from dsprune.masks.manifest import read_manifest
from dsprune.model.own import OWN_MODELS
from dsprune.recipe import load_recipe
from dsprune.testing.tiny import tiny_bert
from dsprune.train.run_folder import RunFolder, made_by
from dsprune.train.run_records import read_summary
from dsprune.utils.text import shareable
from tests.printing import printed
from tests.run_folders import write_run
from tests.unit.hub_server import Hub, running
from tests.unit.sparse import bert, sparse_bert

RECIPE = load_recipe("glue-90", ["task.train=/home/me/secret/a.csv"])
MADE = Made(
    recipe=RECIPE,
    command="dsprune train /home/me/secret/mine.yaml",
    metrics={"accuracy": 0.75},
    num_examples=1543,
    audit="every invariant holds",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sparse_bert(tmp_path / "model")


def card(folder: Path, made: Made) -> str:
    write_card(folder, made)
    return (folder / CARD).read_text(encoding="utf-8")


def test_the_card_says_what_the_model_is_and_how_it_was_made(folder: Path) -> None:
    text = card(folder, MADE)
    for part in (
        "# glue-90",
        "| accuracy | 0.7500 |",
        "1,543 examples",
        "every invariant holds",
        'model = BertForSequenceClassification.from_pretrained("FOLDER")',
        "dsprune train …/mine.yaml",
        "train: …/a.csv",
        "sparsity: 0.9",
    ):
        assert part in text
    assert "secret" not in text


def test_the_hub_reads_its_metadata(folder: Path) -> None:
    card(folder, MADE)
    data = ModelCard.load(folder / CARD).data
    assert data.base_model == "google-bert/bert-base-uncased"
    assert data.pipeline_tag == "text-classification"
    assert data.tags == ["dsprune", "sparse", "pruned"]
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.75, "sst2")


def test_the_sparsity_is_that_of_the_files_in_both_conventions(folder: Path) -> None:
    names = read_manifest(folder).tensors
    weights = load_file(folder / "model.safetensors")
    zeros = sum(int((weights[name] == 0).sum()) for name in names)
    prunable, total = sum(weights[name].numel() for name in names), bert().num_parameters()
    rows = [line for line in card(folder, Made()).splitlines() if line.startswith("| ")]
    assert rows[1] == f"| prunable weights | {zeros:,} | {prunable:,} | {100 * zeros / prunable:.2f} % |"
    assert rows[2] == f"| all weights | {zeros:,} | {total:,} | {100 * zeros / total:.2f} % |"


def test_a_model_without_masks_or_a_recipe_has_a_card(tmp_path: Path) -> None:
    dense = tiny_bert(tmp_path / "dense")
    text = card(dense, Made())
    for part in ("# dense", "Dense: no weight was pruned.", "Not evaluated", "Not audited", "in a script"):
        assert part in text
    (tmp_path / "other").mkdir()
    assert "load_file(" in card(tmp_path / "other", Made())
    BertModel.from_pretrained(dense).save_pretrained(tmp_path / "base")
    assert "pipeline_tag" not in card(tmp_path / "base", Made())


@pytest.mark.parametrize("kind", OWN_MODELS)
def test_a_model_of_dsprunes_own_is_imported_from_there(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind]}))
    text = card(tmp_path, Made())
    [start, end] = (text.index(part) for part in ("from transformers import", f"model = {kind}.from"))
    scope: dict[str, object] = {}
    exec(text[start:end], scope)
    assert {"AutoTokenizer", kind} <= scope.keys()


@pytest.mark.parametrize("path", ["models/bert", "/models/bert", "bert", "./bert", "a/b/c"])
def test_the_folder_of_the_first_model_is_private(
    path: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/bert").mkdir(parents=True)
    text = card(folder, Made(load_recipe("glue-90", [f"model.path={path}"])))
    assert "base_model" not in yaml.safe_load(text.split("---")[1])


def test_an_edited_card_is_kept_and_an_own_one_replaced(folder: Path) -> None:
    card(folder, Made())
    assert "accuracy" in card(folder, MADE)
    (folder / CARD).write_text("# Mine\n")
    assert card(folder, MADE) == "# Mine\n"


def test_the_card_may_be_edited_without_a_finding_of_the_audit(folder: Path) -> None:
    list_model_folder(folder)
    card(folder, MADE)
    assert not audit_folder(folder).findings


def test_the_metrics_are_those_of_the_end_of_the_run(tmp_path: Path) -> None:
    run = RunFolder(write_run(tmp_path / "run"))
    assert made_by(run, audit="good").metrics
    assert made_by(run, audit="good").audit == "good"
    assert made_by(run, step=read_summary(run.summary).steps).metrics
    assert not made_by(run, step=1).metrics
    assert made_by(RunFolder(tmp_path)) == Made()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train: /home/me/a b/x.csv", "train: …/a b/x.csv"),
        ("--data=/data/x.csv data/y.csv", "--data=…/x.csv data/y.csv"),
        ("https://host/a/b and ./a/b and ../a/b", "https://host/a/b and ./a/b and ../a/b"),
        ("[/a/b, '/c/d']", "[…/b, '…/d']"),
    ],
)
def test_absolute_paths_are_cut(text: str, shown: str) -> None:
    assert shareable(text) == shown


# ---- to the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and no token for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def pushed(folder: Path, *, public: bool = False, dry_run: bool = False) -> str:
    return printed(upload, folder, "me/model", public=public, dry_run=dry_run)


def test_without_a_token_nothing_is_pushed(folder: Path, hub: Hub) -> None:
    said = pushed(folder)
    assert "model.safetensors" in said
    assert "not pushed to me/model: no token found: log in with `hf auth login`" in said
    assert not hub.created


@pytest.mark.parametrize("public", [True, False])
def test_with_a_token_all_files_are_pushed(
    folder: Path, hub: Hub, public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    card(folder, MADE)
    assert "not pushed to me/model: --dry-run" in pushed(folder, dry_run=True)
    assert not hub.created
    assert pushed(folder, public=public) == f"pushed: {hub.address}/me/model/commit/1\n"
    [created] = hub.created
    visibility = "public" if public else "private"
    assert (created["name"], created["organization"], created["visibility"]) == ("model", "me", visibility)
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert b"hf_secret" not in b"".join(hub.files.values())


def test_a_hub_that_cannot_be_reached_is_said(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"^--push: value me/model: .*: check its name, your token and the network$"
    ):
        pushed(folder)


def test_a_recipe_with_private_paths_is_pointed_at(folder: Path, hub: Hub) -> None:
    (folder / "recipe.yaml").write_text("task: {train: /home/me/a.csv}\n")
    assert pushed(folder).startswith("recipe.yaml names folders of this machine: read it before")
    (folder / "recipe.yaml").write_text("task: {train: data/a.csv}\n")
    assert "recipe.yaml names" not in pushed(folder)


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/-model", "me/mo del"])
def test_the_name_of_a_repository_is_checked(name: str) -> None:
    with pytest.raises(UserError, match=rf"^--push: value {name}: .*: give OWNER/NAME$"):
        check_repository(name)


@pytest.mark.parametrize("option", ["--public", "--dry-run"])
def test_the_options_of_push_need_it(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["export", "run", "--to", "x", option]) == 2
    assert capsys.readouterr().err.startswith("dsprune: --push: value missing: ")


@pytest.mark.parametrize("options", [["--public"], ["--dry-run"], []])
def test_an_export_needs_a_target(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["export", "run", *options]) == 2
    assert re.match("dsprune: --to: value missing: .*--push OWNER/NAME", capsys.readouterr().err)
