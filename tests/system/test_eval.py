"""`dsprune eval` as a user runs it, on one process and on two ranks."""

import json
from pathlib import Path

import pytest
import torch

from dsprune.commands.cli import run_command
from dsprune.recipe import Task as TaskSettings
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from dsprune.train.evaluation import evaluate_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert(tmp_path_factory.mktemp("bert"), seed=3))


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sentiment(tmp_path_factory.mktemp("sentiment"), 8, 21) / "validation.csv")


@pytest.fixture(scope="module")
def metrics(bert: str, validation: str) -> dict[str, float]:
    settings = TaskSettings(name="text-classification", validation=validation)
    return evaluate_model(bert, settings, device=torch.device("cpu"))


def test_one_process_prints_the_metrics_as_json(
    bert: str, validation: str, metrics: dict[str, float], tmp_path: Path
) -> None:
    alone = ForkedRanks(["eval", bert, f"validation={validation}"], 1, tmp_path / "logs")
    assert alone.wait() == [0], alone.said()
    assert json.loads(alone.printed()) == metrics


def test_the_first_of_two_ranks_prints_the_metrics_as_json(
    bert: str, validation: str, metrics: dict[str, float], tmp_path: Path
) -> None:
    ranks = ForkedRanks(["eval", bert, f"validation={validation}"], 2, tmp_path / "logs")
    assert ranks.wait() == [0, 0], ranks.said()
    assert json.loads(ranks.printed(0)) == metrics
    assert ranks.printed(1) == ""


def test_bad_input_is_one_line_and_exit_code_2(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["eval", bert, "validation=none.csv"]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert "task.validation: none.csv: no such file: give the path of an existing one" in errors
    assert "Traceback" not in errors
