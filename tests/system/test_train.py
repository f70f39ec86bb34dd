"""`dsprune train`: the files of a run, on two ranks and on one process."""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dsprune import load_compact
from dsprune.commands.cli import run_command
from dsprune.masks.bits import unpack
from dsprune.masks.manifest import read_manifest
from dsprune.masks.mask_files import read_masks
from dsprune.model.shard import PrunableTensor, Shard
from dsprune.recipe import load_recipe
from dsprune.schedule import Timetable
from dsprune.testing.commands import NOISE
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.status_file import read_status
from dsprune.utils.files import sha256_of
from tests.offline_wandb import read_offline_run

NUM_PRUNABLE = 2 * (4 * 32 * 32 + 2 * 32 * 64)
NUM_PRUNED = round(0.9 * NUM_PRUNABLE)


@dataclass(frozen=True)
class Workshop:
    """A model, data and a recipe, and a run of it on two ranks."""

    folder: Path
    recipe: Path
    run: Path
    said: str

    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.run / "metrics.jsonl")

    def start(self, log: str, *arguments: str, world_size: int = 1, **variables: str) -> ForkedRanks:
        """`dsprune train` of the recipe, on ranks that start quickly."""
        words = ["train", str(self.recipe), *arguments]
        return ForkedRanks(words, world_size, self.folder / "logs" / log, **variables)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("train")
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    recipe = write_recipe(folder / "tiny.yaml", bert, tiny_sentiment(folder / "data", 320, 64))
    ranks = ForkedRanks(["train", str(recipe)], 2, folder / "logs" / "tiny")
    assert ranks.wait() == [0, 0], ranks.said()
    return Workshop(folder, recipe, folder / "runs" / "tiny", ranks.said(0) + ranks.said(1))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def masks_of(folder: Path) -> dict[str, Tensor]:
    """The whole masks of a folder by name, True = kept."""
    manifest = read_manifest(folder)
    tensors = [PrunableTensor(name, entry.shape) for name, entry in manifest.tensors.items()]
    shards = [Shard(tensor, 0, tensor.numel) for tensor in tensors]
    rows = zip(shards, read_masks(folder, manifest, shards), strict=True)
    return {s.tensor.name: unpack(bits, s.numel).view(s.tensor.shape) for s, bits in rows}


# ---- the run folder


def test_the_run_folder_holds_what_is_promised(workshop: Workshop) -> None:
    assert {path.name for path in workshop.run.iterdir()} == {
        *("recipe.yaml", "ds_config.json", "start.json", "metrics.jsonl", "status.json"),
        *("checkpoints", "model", "summary.json", "report.html"),
    }
    leftovers = [path for path in workshop.run.rglob("*") if path.name.endswith(".tmp")]
    assert leftovers == []


def test_it_says_where_and_little_else(workshop: Workshop) -> None:
    assert f"finished: {workshop.run}: accuracy " in workshop.said
    for noise in NOISE:
        assert noise not in workshop.said


def test_recipe_and_ds_config_are_as_resolved(workshop: Workshop) -> None:
    assert load_recipe(str(workshop.run / "recipe.yaml")) == load_recipe(str(workshop.recipe))
    assert set(yaml.safe_load((workshop.run / "recipe.yaml").read_text())["pruning"]) > {"curve", "scope"}
    config = json.loads((workshop.run / "ds_config.json").read_text())
    assert "auto" not in str(config)
    sizes = config["train_batch_size"], config["train_micro_batch_size_per_gpu"], config["zero_optimization"]
    assert (sizes[0], sizes[1], sizes[2]["stage"]) == (32, 16, 2)


def test_the_report_shows_what_happened(workshop: Workshop) -> None:
    page = (workshop.run / "report.html").read_text()
    for part in (f"dsprune train …/{workshop.recipe.name}", "90.00 %", "every invariant holds", "model: "):
        assert part in page
    start = json.loads((workshop.run / "start.json").read_text())
    assert start["world_size"] == 2
    assert start["versions"]["torch"] == torch.__version__
    assert (
        TypeAdapter(Timetable).validate_python(start["timetable"])
        == read_manifest(workshop.run / "model").timetable
    )


def test_the_card_of_the_model_shows_it_too(workshop: Workshop) -> None:
    card = (workshop.run / "model" / "README.md").read_text()
    accuracy = json.loads((workshop.run / "summary.json").read_text())["metrics"]["accuracy"]
    for part in (
        f"dsprune train …/{workshop.recipe.name}",
        "| 90.00 % |",
        "every invariant holds",
        f"| {accuracy:.4f} |",
    ):
        assert part in card


def test_metrics_follow_the_steps(workshop: Workshop) -> None:
    rows = [row for row in workshop.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(4, 41, 4))
    for row in rows:
        assert set(row) == {
            *("step", "loss", "learning_rate", "gradient_norm", "phase", "seconds_per_step"),
            *("sparsity_prunable", "sparsity_model"),
        }
        assert math.isfinite(row["loss"])
        assert row["seconds_per_step"] > 0
    assert [row["phase"] for row in rows] == ["dense"] * 2 + ["prune"] * 5 + ["recover"] * 3


def test_the_learning_rate_is_that_of_the_step_that_was_taken(workshop: Workshop) -> None:
    """A line from 5e-3 to a tenth of it over steps 0 to 9, again from each mask update at 10, 20, and at 30 to 0."""
    found = {row["step"]: row["learning_rate"] for row in workshop.metrics() if "loss" in row}
    for step, rate in found.items():
        interval, place = divmod(step - 1, 10)
        end = 0.0 if interval == 3 else 0.1
        assert rate == pytest.approx(5e-3 * (1 - (1 - end) * place / 10)), step


def test_metrics_tell_of_every_update(workshop: Workshop) -> None:
    rows = [row for row in workshop.metrics() if "update_sparsity" in row]
    assert [row["step"] for row in rows] == [11, 21, 31]
    assert [row["update_step"] for row in rows] == [10, 20, 30]
    assert rows[-1]["update_sparsity"] == 0.9
    for row in rows:
        assert row["sparsity_prunable"] == round(row["update_sparsity"] * NUM_PRUNABLE) / NUM_PRUNABLE
        assert row["sparsity_model"] < row["sparsity_prunable"]
        assert row["mask_bytes"] == NUM_PRUNABLE / 8
        assert row["update_seconds"] > 0
        assert 0 < row["update_bytes_sent"] < 100_000
        assert len(row["tensor_sparsity"]) == 12
    sizes = {name: mask.numel() for name, mask in masks_of(workshop.run / "model").items()}
    last = rows[-1]["tensor_sparsity"]
    assert sum(last[name] * size for name, size in sizes.items()) == pytest.approx(NUM_PRUNED)


def test_metrics_have_the_evaluations(workshop: Workshop) -> None:
    rows = [row for row in workshop.metrics() if "validation_accuracy" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    summary = json.loads((workshop.run / "summary.json").read_text())
    assert summary["metrics"]["accuracy"] == rows[-1]["validation_accuracy"] > 0.9, "it has learnt"


def test_the_summary_says_what_came_out(workshop: Workshop) -> None:
    summary = json.loads((workshop.run / "summary.json").read_text())
    assert summary["recipe"] == "tiny"
    assert (summary["steps"], summary["seed"]) == (40, 42)
    assert summary["sparsity"]["prunable"] == NUM_PRUNED / NUM_PRUNABLE
    assert summary["seconds"] > 0


def test_the_status_says_how_it_ended(workshop: Workshop) -> None:
    status = read_status(workshop.run / "status.json")
    assert (status.state, status.reason, status.checkpoint) == ("finished", None, "global_step40")
    assert (status.step, status.total_steps, status.phase, status.world_size) == (40, 40, "recover", 2)
    assert status.sparsity == NUM_PRUNED / NUM_PRUNABLE
    assert status.loss == [row["loss"] for row in workshop.metrics() if "loss" in row][-1]
    assert status.started < status.updated < time.time()


# ---- the model


def test_the_model_opens_and_has_exactly_the_zeros_of_the_masks(workshop: Workshop) -> None:
    folder = workshop.run / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("the film was good")["input_ids"]
    assert model.config.id2label == {0: "negative", 1: "positive"}
    weights = dict(model.named_parameters())
    masks = masks_of(folder)
    assert sum(int((~mask).sum()) for mask in masks.values()) == NUM_PRUNED
    for name, mask in masks.items():
        assert torch.equal(weights[name] != 0, mask)
    num_weights = sum(weight.numel() for weight in weights.values())
    summary = json.loads((workshop.run / "summary.json").read_text())
    assert summary["sparsity"]["model"] == NUM_PRUNED / num_weights


def test_a_checkpoint_is_exported_as_the_model_that_the_run_saved(workshop: Workshop, tmp_path: Path) -> None:
    to = tmp_path / "given-away"
    assert run_command(["export", str(workshop.run), "--to", str(to)]) == 0
    exported, saved = (load_file(folder / "model.safetensors") for folder in (to, workshop.run / "model"))
    assert exported.keys() == saved.keys()
    assert all(torch.equal(exported[name], saved[name]) for name in saved)
    assert run_command(["audit", str(to)]) == 0
    AutoTokenizer.from_pretrained(to)
    assert [path.name for path in tmp_path.iterdir()] == ["given-away"]


def test_what_would_be_pushed_is_listed_and_not_kept(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["export", str(workshop.run), "--push", "me/model", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "  model.safetensors  " in said
    assert "exported to" not in said


def test_a_checkpoint_in_compact_form_expands_to_the_model_that_the_run_saved(
    workshop: Workshop, tmp_path: Path
) -> None:
    compact, expanded = str(tmp_path / "compact"), str(tmp_path / "expanded")
    assert run_command(["export", str(workshop.run), "--compact", "--to", compact]) == 0
    assert run_command(["export", compact, "--expand", "--to", expanded]) == 0
    assert run_command(["audit", expanded]) == 0
    weights = (workshop.run / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "expanded" / "model.safetensors").read_bytes() == weights
    loaded = load_compact(compact).state_dict()
    saved = load_file(workshop.run / "model" / "model.safetensors")
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--to", "RUN"], "exists already and is not overwritten: give another folder"),
        (["RUN", "--to", "NEW", "--tag", "best"], "--tag: value best: no such checkpoint: use one of global_"),
        (["DATA", "--to", "NEW"], "no complete checkpoint there: give the folder of a run that has one"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"RUN": workshop.run, "NEW": tmp_path / "new", "DATA": workshop.folder / "data"}
    assert run_command(["export", *(str(places.get(word, word)) for word in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_zero_of_the_model_file_is_negative(workshop: Workshop) -> None:
    for name, tensor in load_file(workshop.run / "model" / "model.safetensors").items():
        assert not torch.signbit(tensor[tensor == 0]).any(), name


def test_model_and_checkpoint_have_the_same_masks(workshop: Workshop) -> None:
    tag = (workshop.run / "checkpoints" / "latest").read_text()
    of_model, of_checkpoint = masks_of(workshop.run / "model"), masks_of(workshop.run / "checkpoints" / tag)
    assert of_model.keys() == of_checkpoint.keys()
    assert all(torch.equal(of_model[name], of_checkpoint[name]) for name in of_model)


# ---- the audit


def test_the_audit_of_a_run_is_clean(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["audit", str(workshop.run)]) == 0
    assert capsys.readouterr().out.count("every invariant holds") == 2


@pytest.fixture
def copy(workshop: Workshop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop.run, tmp_path / "copy"))


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "latest").read_text()


def test_the_audit_names_a_pruned_weight_of_the_model_that_came_back(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = copy / "model" / "model.safetensors", "bert.encoder.layer.1.output.dense.weight"
    tensors = load_file(path)
    flat = tensors[name].view(-1)
    flat[int((flat == 0).nonzero()[0])] = 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    assert run_command(["audit", str(copy)]) == 1
    assert f"model: {name}: pruned entries of the weights are zero: 1 entries" in capsys.readouterr().err


def test_the_audit_names_a_moment_of_the_checkpoint_that_came_back(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(copy) / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    state = torch.load(path, weights_only=False)
    state["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg"].fill_(1.0)
    torch.save(state, path)
    assert run_command(["audit", str(copy)]) == 1
    message = capsys.readouterr().err
    assert (
        "bert.encoder.layer.0.attention.self.query.weight: pruned entries of the exp_avg are zero" in message
    )


def test_the_audit_counts_what_is_pruned(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "model" / "dsprune.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["tensors"].values():
        entry["target"] = 0.8
    path.write_text(json.dumps(manifest))
    assert run_command(["audit", str(copy / "model")]) == 1
    assert f"{round(0.8 * NUM_PRUNABLE):,} weights are pruned" in capsys.readouterr().err


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model/model.safetensors", truncate, "model.safetensors: cannot be read"),
        ("model/model.safetensors", Path.unlink, "model.safetensors: cannot be read"),
        ("model/masks-00001-of-00002.safetensors", truncate, "masks-00001-of-00002.safetensors: damaged"),
        ("model/masks-00001-of-00002.safetensors", Path.unlink, "masks-00001-of-00002.safetensors: missing"),
        ("model/dsprune.json", truncate, "dsprune.json: not a manifest"),
        ("model/dsprune.json", Path.unlink, "no dsprune.json, so no masks"),
        ("checkpoints/global_step40/dsprune.json", Path.unlink, "no dsprune.json, so no masks"),
        ("checkpoints/global_step40/mp_rank_00_model_states.pt", Path.unlink, "no DeepSpeed checkpoint"),
        (
            "checkpoints/global_step40/zero_pp_rank_1_mp_rank_00_optim_states.pt",
            truncate,
            "optim_states.pt: cannot be read",
        ),
    ],
)
def test_a_damaged_file_is_bad_input(
    copy: Path, capsys: pytest.CaptureFixture[str], file: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy / file)
    assert run_command(["audit", str(copy)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dsprune: ")
    assert message in line


def test_a_missing_rank_of_the_checkpoint_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint(copy) / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    assert run_command(["audit", str(copy)]) in (1, 2)
    assert "dsprune: " in capsys.readouterr().err


def test_there_must_be_something_to_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["audit", str(tmp_path)]) == 2
    assert "nothing to audit: give the folder of a run, a checkpoint" in capsys.readouterr().err


# ---- once more


@pytest.fixture(scope="module")
def again(workshop: Workshop) -> Path:
    """The same run once more, with Weights & Biases watching: without a key, so offline."""
    output = workshop.folder / "again"
    words = [f"output={output}", "tracking.wandb=true", "tracking.tags=[a, b]"]
    home = {"HOME": str(workshop.folder), "WANDB_CONFIG_DIR": str(workshop.folder)}
    ranks = workshop.start("again", *words, world_size=2, **home)
    assert ranks.wait() == [0, 0], ranks.said()
    return output / "tiny"


def test_the_same_recipe_gives_the_same_bytes(workshop: Workshop, again: Path) -> None:
    for file in ("model.safetensors", "masks-00000-of-00002.safetensors", "masks-00001-of-00002.safetensors"):
        assert sha256_of(again / "model" / file) == sha256_of(workshop.run / "model" / file), file


def test_weights_and_biases_gets_config_and_metrics(again: Path) -> None:
    [path] = again.glob("wandb/offline-run-*/run-*.wandb")
    kept = read_offline_run(path)
    recipe = load_recipe(str(again / "recipe.yaml")).model_dump(mode="json")
    assert {key: kept.config[key] for key in recipe} == recipe
    logged = {row["_step"]: row for row in kept.rows}
    lines = read_lines(again / "metrics.jsonl")
    assert set(logged) == {line["step"] for line in lines}
    for line in lines:
        for key, value in line.items():
            if key == "tensor_sparsity":
                assert all(logged[line["step"]][f"{key}.{name}"] == one for name, one in value.items())
            elif key != "step":
                assert logged[line["step"]][key] == value, key


def test_nothing_of_weights_and_biases_unless_asked(workshop: Workshop) -> None:
    assert not list(workshop.folder.glob("runs/**/wandb*"))
    assert "wandb" not in workshop.said


def test_a_finished_run_is_not_written_over(workshop: Workshop) -> None:
    before = (workshop.run / "summary.json").read_bytes()
    ranks = workshop.start("over")
    assert ranks.wait() == [2]
    assert ranks.error_lines() == [
        f"dsprune: {workshop.run}: holds a finished run: give another name=... or output=..., or remove it"
    ]
    assert (workshop.run / "summary.json").read_bytes() == before


# ---- one process


def test_one_process_learns_from_a_teacher(workshop: Workshop) -> None:
    """The student starts as its own teacher: the distillation loss is zero until the first mask update."""
    model = workshop.run / "model"
    ranks = workshop.start(
        "taught", "name=taught", f"model.path={model}", f"distillation.teacher={model}", "precision=fp32",
        "tracking.log_every=1", "pruning={sparsity: 0.97, curve: one-shot, start: 2}",
        "learning_rate={peak: 2e-3, scale: {'*embeddings*': 0.5}}",
    )  # fmt: skip
    assert ranks.wait() == [0], ranks.said()
    run = workshop.folder / "runs" / "taught"
    rows = [row for row in read_lines(run / "metrics.jsonl") if "loss" in row]
    assert all(row["learning_rate/*embeddings*"] == 0.5 * row["learning_rate"] for row in rows)
    losses = {row["step"]: row["loss"] for row in rows}
    assert losses[1] == pytest.approx(0, abs=1e-6)
    assert max(losses[step] for step in (4, 5, 6)) > 1e-3
    assert losses[40] < 0.5 * max(losses[step] for step in (4, 5, 6))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sparsity"]["prunable"] == round(0.97 * NUM_PRUNABLE) / NUM_PRUNABLE
    assert run_command(["audit", str(run)]) == 0


def test_a_terminated_run_stops_with_a_checkpoint(workshop: Workshop) -> None:
    run = workshop.folder / "runs" / "endless"
    ranks = workshop.start("endless", "name=endless", "budget={steps: 100000, batch: 32}")
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert ranks.processes[0].exitcode is None, ranks.said()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks.signal(signal.SIGTERM)
    assert ranks.wait(20) == [75]
    status = read_status(run / "status.json")
    said = f"SIGTERM: stopped at step {status.step}; run the same command to resume"
    assert ranks.error_lines() == [f"dsprune: {said}"]
    assert (status.state, status.reason, status.checkpoint) == ("stopped", said, f"global_step{status.step}")
    assert read_lines(run / "metrics.jsonl"), "what was logged is whole lines"
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoints", "ds_config.json", "metrics.jsonl", "recipe.yaml", "start.json", "status.json")
    ]
    assert [path for path in run.rglob("*") if path.name.endswith(".tmp")] == []
