"""`dsprune eval` as a user runs it, on one process and on two."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from dsprune.recipe.sections import Task as TaskSettings
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from dsprune.train.evaluation import evaluate_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny_bert(tmp_path_factory.mktemp("bert"), seed=3))


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    return str(tiny_sentiment(tmp_path_factory.mktemp("sentiment"), 8, 21) / "validation.csv")


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "dsprune", "eval", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_first_rank_prints_the_metrics_as_json(bert, validation, world_size):
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        start(bert, f"validation={validation}", RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(world_size)
    ]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world_size, outputs
    settings = TaskSettings(name="text-classification", validation=validation)
    assert json.loads(outputs[0][0]) == evaluate_model(bert, settings, device=torch.device("cpu"))
    assert [output for output, _ in outputs[1:]] == [""] * (world_size - 1)


def test_bad_input_is_one_line_and_exit_code_2(bert):
    command = start(bert, "validation=none.csv")
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 2
    assert output == ""
    assert "task.validation: none.csv: no such file: give the path of an existing one" in errors
    assert "Traceback" not in errors
