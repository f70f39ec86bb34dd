"""Weights & Biases, with its real client: the values that a run sends, also without a network or a key."""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from dsprune.ranks.collectives import Comm
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import Recipe, load_recipe
from dsprune.schedule import Timetable, build_timetable
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.client_state import ClientState
from dsprune.train.run_folder import RunFolder
from dsprune.train.tracking import Tracker
from tests.offline_wandb import OfflineRun, read_offline_run
from tests.system.wandb_server import serving

KEY = "0123456789abcdef0123456789abcdef01234567"
SUMMARY = {"metrics": {"accuracy": 0.9}, "sparsity": {"prunable": 0.9}, "steps": 40}
TENSORS = {"encoder.0": 0.95, "encoder.1": 0.85}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.2")
    path = write_recipe(tmp_path / "tiny.yaml", tmp_path / "bert", tmp_path / "data")
    tracking = "{wandb: true, project: p, group: g, tags: [a, b], run: r, log_model: true}"
    return load_recipe(str(path), [f"tracking={tracking}", f"output={tmp_path}"])


def timetable(recipe: Recipe) -> Timetable:
    return build_timetable(recipe.pruning, recipe.learning_rate, recipe.budget, 10)


def folder(recipe: Recipe) -> RunFolder:
    run = RunFolder(Path(recipe.output) / recipe.name)
    run.path.mkdir(exist_ok=True)
    run.begin(recipe, {"train_batch_size": 32}, is_new=True)
    return run


def opened(recipe: Recipe, run: RunFolder, resumed: dict[str, str] | None = None) -> Tracker:
    return Tracker(recipe, run, timetable(recipe), Ranks(0, 0, 2), ClientState.model_validate(resumed or {}))


def files_of(run: RunFolder) -> list[Path]:
    return sorted(run.path.glob("wandb/offline-run-*/run-*.wandb"))


def read(run: RunFolder) -> OfflineRun:
    """The only run, once its file, which another process writes, is complete."""
    [path] = files_of(run)
    deadline = time.monotonic() + 60
    while (kept := read_offline_run(path)).exit_code is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return kept


def test_a_run_tells_all_about_itself(recipe: Recipe) -> None:
    run = folder(recipe)
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("{}")
    tracker = opened(recipe, run)
    tracker.log(4, {"loss": 0.5, "phase": "dense"})
    tracker.log(11, {"update_sparsity": 0.5, "tensor_sparsity": TENSORS})
    time.sleep(1)  # for the system metrics
    tracker.finish(40, SUMMARY, TENSORS, run.model)
    tracker.close()
    tracker.close()
    kept = read(run)
    assert (kept.run.project, kept.run.run_group, kept.run.display_name, list(kept.run.tags)) == (
        *("p", "g", "r", ["a", "b"]),
    )
    asked = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert {key: kept.config[key] for key in asked} == asked
    assert kept.config["timetable"] == json.loads(json.dumps(asdict(timetable(recipe))))
    assert kept.config["ds_config"] == {"train_batch_size": 32}
    assert kept.config["world_size"] == 2
    rows = {row["_step"]: row for row in kept.rows}
    assert (rows[4]["loss"], rows[4]["phase"]) == (0.5, "dense")
    assert rows[11]["tensor_sparsity.encoder.0"] == 0.95
    [table] = run.path.glob(f"wandb/offline-run-*/files/{rows[40]['tensors.path']}")
    assert json.loads(table.read_text())["data"] == [[*row] for row in TENSORS.items()]
    assert kept.summary["metrics"] == {"accuracy": 0.9}
    assert {"cpu", "memory_percent"} <= kept.system
    [artifact] = kept.artifacts[-1:]
    assert (artifact.type, artifact.name) == ("model", f"model-{kept.run.run_id}")
    assert [entry.path for entry in artifact.manifest.contents] == ["config.json"]
    assert (kept.exit_code, kept.is_preempting) == (0, False)


def test_a_run_goes_on_under_its_id(recipe: Recipe) -> None:
    run = folder(recipe)
    first = opened(recipe, run)
    first.log(4, {"loss": 0.5})
    state = first.state()
    first.close(75)
    kept = read(run)
    assert (kept.exit_code, kept.is_preempting) == (75, True)
    assert state["wandb_id"] == kept.run.run_id
    second = opened(recipe, run, state)
    second.log(8, {"loss": 0.25})
    second.close()
    assert {path.stem for path in files_of(run)} == {f"run-{state['wandb_id']}"}
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]


def test_a_model_is_sent_only_when_asked(recipe: Recipe) -> None:
    modest = recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"log_model": False})})
    run = folder(modest)
    tracker = opened(modest, run)
    tracker.finish(40, SUMMARY, TENSORS, run.model)
    tracker.close()
    assert not [artifact for artifact in read(run).artifacts if artifact.type == "model"]


def test_the_other_ranks_say_nothing(recipe: Recipe) -> None:
    run = folder(recipe)
    tracker = Tracker(recipe, run, timetable(recipe), Ranks(1, 1, 2), ClientState())
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert not run.metrics.exists()
    assert not (run.path / "wandb").exists()


@pytest.fixture
def process() -> Iterator[RankPool]:
    """A separate process: the client reads its environment once, and does not recover from these tests."""
    with RankPool(1) as pool:
        yield pool


def lose_the_client(comm: Comm, variables: dict[str, str], path: str, output: str) -> str:
    """The messages when the client's process is killed."""
    os.environ.update(variables)
    recipe = load_recipe(path, [f"output={output}", "tracking.wandb=true"])
    run = folder(recipe)
    tracker = opened(recipe, run)
    tracker.log(4, {"loss": 0.5})
    for process in psutil.Process().children(recursive=True):
        process.terminate()
        process.wait()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        tracker.log(8, {"loss": 0.25})
        tracker.finish(40, SUMMARY, TENSORS, run.model)
        assert "wandb_id" in tracker.state()
        tracker.close(75)
        tracker.close(1)
    return said.getvalue()


def test_a_client_that_is_killed_does_not_take_the_run_along(
    process: RankPool, recipe: Recipe, tmp_path: Path
) -> None:
    variables = {"HOME": str(tmp_path), "WANDB_MODE": "offline"}
    [said] = process.run(1, lose_the_client, variables, str(tmp_path / "tiny.yaml"), str(tmp_path))
    assert said.count("no more is logged here; metrics.jsonl has it all") == 1
    lines = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]


def lose_the_network(comm: Comm, variables: dict[str, str], path: str, output: str) -> float:
    """The longest time in seconds of logging a step when the server does not answer."""
    os.environ.update(variables)
    recipe = load_recipe(path, [f"output={output}", "tracking.wandb=true"])
    run = folder(recipe)
    with serving() as address:
        os.environ["WANDB_BASE_URL"] = address
        tracker = opened(recipe, run)
        tracker.log(1, {"loss": 0.5})
        assert list(run.path.glob("wandb/run-*")), "it is online"
    longest = 0.0
    for step in range(2, 201):
        started = time.monotonic()
        tracker.log(step, {"loss": 1 / step})
        longest = max(longest, time.monotonic() - started)
    tracker.close()
    return longest


def test_a_network_that_dies_in_mid_run_holds_nothing_up(
    process: RankPool, recipe: Recipe, tmp_path: Path
) -> None:
    online = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_FINISH_TIMEOUT": "3"}
    variables = {"HOME": str(tmp_path), **online}
    [longest] = process.run(1, lose_the_network, variables, str(tmp_path / "tiny.yaml"), str(tmp_path))
    assert longest < 1
    steps = list(range(1, 201))
    lines = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    [kept] = (tmp_path / "tiny").glob("wandb/run-*/run-*.wandb")
    assert [row["_step"] for row in read_offline_run(kept).rows] == steps, "`wandb sync` can send it later"


def test_neither_a_dead_network_nor_a_key_does_harm(tmp_path: Path) -> None:
    """A server that does not answer: after one wait the run is kept offline, from its first step on."""
    bert, data = tiny_bert(tmp_path / "bert"), tiny_sentiment(tmp_path / "data", 64, 32)
    budget = {"budget": {"steps": 40, "batch": 32}, "tracking": {"wandb": True, "log_every": 1}}
    path = write_recipe(tmp_path / "tiny.yaml", bert, data, **budget)
    home = {name: str(tmp_path) for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    home |= {"WANDB_INIT_TIMEOUT": "3"}
    online = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    ranks = ForkedRanks(["train", str(path)], 1, tmp_path / "logs", **home, **online)
    assert ranks.wait() == [0], ranks.said()
    assert "this run is kept offline; send it later with `wandb sync`" in ranks.said()
    run = RunFolder(tmp_path / "runs" / "tiny")
    assert {row["_step"] for row in read(run).rows} == set(range(1, 41))
    assert run.summary.exists()
    written = [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert written == []
    assert KEY not in ranks.said()


def test_a_client_that_cannot_start_does_not_end_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("invalid project name 'a/b'")

    import wandb

    from dsprune.train.wandb_tracker import WeightsAndBiases

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WeightsAndBiases(recipe, RunFolder(tmp_path / "run"), {}, None)
    tracker.log(1, {"loss": 1.0})
    assert tracker.state() == {}
    tracker.close()
    told = capsys.readouterr().err
    assert told.count("invalid project name 'a/b': no more is logged here; metrics.jsonl has it all") == 1
