"""A student that starts from its teacher has lost no accuracy before its first mask update."""

import json
from pathlib import Path
from typing import Any

import pytest

from dsprune.testing.commands import train_on_rank
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe

FIRST = 6
"""Step of the first mask update: 2/30 of 90 steps."""


def train(pool: RankPool, recipe: Path, *overrides: str) -> list[dict[str, Any]]:
    """The rows of metrics of a run."""
    pool.run(1, train_on_rank, str(recipe), overrides)
    name = dict(override.split("=", 1) for override in overrides)["name"]
    lines = (recipe.parent / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def recipe(one_rank: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that distils a fine-tuned model from itself, evaluated at the first mask update."""
    folder = tmp_path_factory.mktemp("start")
    model, data = tiny_bert(folder / "model"), tiny_sentiment(folder / "data", 320, 200)
    dense = write_recipe(folder / "dense.yaml", model, data, pruning=None, budget={"steps": 60, "batch": 32})
    train(one_rank, dense, "name=dense")
    teacher = folder / "runs" / "dense" / "model"
    return write_recipe(
        folder / "student.yaml", teacher, data, pruning={"sparsity": 0.9}, budget={"steps": 90, "batch": 32},
        learning_rate={"dense": 5e-3}, distillation={"teacher": str(teacher)},
        tracking={"log_every": 2, "eval_every": f"{FIRST} steps"},
    )  # fmt: skip


def measured(rows: list[dict[str, Any]], name: str, step: int) -> float:
    return next(float(row[name]) for row in rows if row["step"] == step and name in row)


def test_nothing_is_lost_before_the_first_mask_update(one_rank: RankPool, recipe: Path) -> None:
    dense = json.loads((recipe.parent / "runs" / "dense" / "summary.json").read_text())["metrics"]["accuracy"]
    assert dense > 0.9, "the teacher has learnt the task"
    rows = train(one_rank, recipe, "name=law")
    assert next(row["update_step"] for row in rows if "update_step" in row) == FIRST
    assert measured(rows, "validation_accuracy", FIRST) >= dense - 0.005
    full_rate = train(one_rank, recipe, "name=full", "learning_rate.dense_peak=1", "learning_rate.warmup=0")
    loss = measured(rows, "distillation_loss", FIRST)
    assert loss < 0.1 * measured(full_rate, "distillation_loss", FIRST), "the full rate moves the model away"
