"""Run a small suite: teachers first, a lottery ticket, failed runs skipped, finished runs kept."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from dsprune.commands.cli import run_command
from dsprune.commands.suite import launcher
from dsprune.model.prunable import choose_weights
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.status_file import read_status

METHODS = {
    "guided": {"set": ["distillation.teacher={teacher}"], "reference": True},
    "ticket": {"iterative": "weights"},
    "broken": {"set": ["learning_rate.warmup=1000 steps"]},
}


@dataclass(frozen=True)
class Suite:
    """An executed suite, and its output."""

    folder: Path
    command: list[str]
    code: int
    said: str

    def weights(self, run: str, folder: str = "model") -> dict[str, torch.Tensor]:
        path = self.folder / f"{run}-start" if folder == "start" else self.folder / run / folder
        return load_file(path / "model.safetensors")


def run_forked(command: list[str], log: Path) -> int:
    """The launcher's work, in a process that starts quickly."""
    ranks = ForkedRanks(command[3:], 1, log.with_suffix(""))
    [code] = ranks.wait()
    assert code is not None, ranks.said()
    with log.open("a", encoding="utf-8") as file:
        file.write(ranks.said())
    return code


@pytest.fixture(scope="module", autouse=True)
def forked_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "run_process", run_forked)
        yield


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("suite")
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    recipe = write_recipe(
        folder / "tiny.yaml", bert, tiny_sentiment(folder / "data", 64, 16),
        budget={"steps": 6, "batch": 32}, pruning={"sparsity": 0.9, "start": 1, "end": 4, "updates": 2},
    )  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"title": "Mine", "sparsity": [0.2], "methods": METHODS}))
    command = ["suite", str(path), str(recipe), "--output", str(folder / "out")]
    code, said = run(command)
    return Suite(folder / "out", command, code, said)


def run(command: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_command(command)
    return code, said.getvalue()


def test_every_run_is_made_but_the_one_that_cannot_be(suite: Suite) -> None:
    finished = {path.parent.name for path in suite.folder.glob("*/summary.json")}
    assert finished == {"teacher-seed1", "guided-20-seed1", "ticket-0-seed1", "ticket-20-seed1"}, suite.said
    status = read_status(suite.folder / "guided-20-seed1" / "status.json")
    assert (status.step, status.phase) == (6, "recover"), "that of the last step, which is not logged"
    assert suite.code == 1
    assert (
        "1 of 5 runs failed: broken-20-seed1: exit code 2: learning_rate.warmup: value 1000 steps"
        in suite.said
    )
    recipe = yaml.safe_load((suite.folder / "guided-20-seed1" / "recipe.yaml").read_text())
    assert recipe["distillation"]["teacher"] == str(suite.folder / "teacher-seed1" / "model")


def test_a_ticket_is_the_start_without_what_training_made_small(suite: Suite) -> None:
    start, trained = suite.weights("ticket-0-seed1", "start"), suite.weights("ticket-0-seed1")
    ticket, final = suite.weights("ticket-20-seed1", "start"), suite.weights("ticket-20-seed1")
    model = AutoModelForSequenceClassification.from_pretrained(suite.folder / "ticket-0-seed1-start")
    names = [tensor.name for tensor in choose_weights(model).tensors]
    magnitudes = torch.cat([trained[name].abs().view(-1) for name in names])
    threshold = magnitudes.sort().values[round(0.2 * magnitudes.numel()) - 1]
    for name, values in start.items():
        kept = trained[name].abs() > threshold if name in names else torch.ones_like(values, dtype=torch.bool)
        assert torch.equal(ticket[name], values * kept), name
        if name in names:
            assert torch.equal(final[name] != 0, kept), "and that is what was trained"


def test_the_runs_become_a_report(suite: Suite) -> None:
    with (suite.folder / "settings.csv").open() as file:
        rows = {(row["setting"], row["target"]) for row in csv.DictReader(file)}
    assert rows == {("teacher", "dense"), ("ticket", "dense"), ("guided", "20.00 %"), ("ticket", "20.00 %")}
    assert "<h1>Mine" in (suite.folder / "report.html").read_text()


def test_once_more_keeps_what_is_finished(suite: Suite) -> None:
    before = {path: path.stat().st_mtime_ns for path in suite.folder.glob("*/model/model.safetensors")}
    code, said = run([*suite.command, "--methods", "guided", "--methods", "ticket"])
    assert code == 0, said
    assert said.count(": kept") == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_part_fails_by_itself(suite: Suite) -> None:
    """The teacher is the first part; the first method in the order of the file is broken."""
    code, said = run([*suite.command, "--part", "1"])
    assert code == 1
    assert "part 1 failed: broken-20-seed1: exit code 2: learning_rate.warmup: value 1000 steps" in said
    code, said = run([*suite.command, "--part", "0"])
    assert (code, said.count(": kept")) == (0, 1)


def test_other_settings_do_not_pass_for_the_finished_ones(suite: Suite) -> None:
    code, said = run([*suite.command, "learning_rate.peak=1e-3", "--methods", "ticket"])
    assert code == 1
    assert "was made with another recipe: give another --output" in said
    report = json.loads((suite.folder / "suite.json").read_text())
    assert report["title"] == "Mine"
