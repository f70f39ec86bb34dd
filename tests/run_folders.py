"""Run folders like those of `dsprune train`, written without training; the numbers follow the timetable."""

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsprune.recipe import Recipe, dump_recipe, load_recipe
from dsprune.report.runs import Row
from dsprune.schedule import Timetable, recipe_timetable

STEPS_PER_EPOCH = 50
LAYERS, MATRICES = 2, ("attention.self.query", "attention.self.key", "intermediate.dense", "output.dense")
PRUNABLE_SHARE = 0.78

BASE = """
name: sentiment-90
model: {path: data/minilm}
task: {name: text-classification, train: train.csv, validation: validation.csv}
budget: {epochs: 4, batch: 32}
pruning: {sparsity: 0.9, start: 13, end: 173}
learning_rate: {peak: 1.0e-4, warmup: 0}
tracking: {log_every: 5}
"""


def write_run(
    folder: Path, *overrides: str, score: float = 0.9, killed_at: int | None = None, **start: Any
) -> Path:
    """Write the folder of a finished run, or of one that was killed at a step, and return it.

    Args:
        folder: its parent.
        overrides: recipe values that differ from `BASE`, which has 200 steps.
        score: accuracy at the end.
        killed_at: the last step; half a line of metrics follows it.
        start: values of start.json that differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(BASE)
    recipe = load_recipe(str(folder / "base.yaml"), overrides)
    timetable = recipe_timetable(recipe, STEPS_PER_EPOCH)
    run = folder / recipe.name
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    (run / "ds_config.json").write_text(json.dumps({"train_batch_size": recipe.budget.batch}))
    record = {"timetable": asdict(timetable), "command": f"dsprune train sentiment-90 name={recipe.name}"}
    (run / "start.json").write_text(json.dumps(record | {"versions": {"torch": "2.13.0"}} | start))
    length = timetable.total_steps if killed_at is None else killed_at
    lines = [json.dumps(row) for row in _rows(recipe, timetable, length, score)]
    text = "".join(f"{line}\n" for line in lines)
    (run / "metrics.jsonl").write_text(text if killed_at is None else text + '{"step": 99, "lo')
    if killed_at is None:
        (run / "summary.json").write_text(json.dumps(_summary(recipe, timetable, score)))
    return run


def _rows(recipe: Recipe, timetable: Timetable, length: int, score: float) -> list[Row]:
    rng = random.Random(recipe.seed)
    rows: list[Row] = []
    for step in range(1, length + 1):
        taken = step - 1
        update, sparsity = timetable.update_at(taken), timetable.sparsity_at(taken)
        reached = {"sparsity_prunable": sparsity, "sparsity_model": PRUNABLE_SHARE * sparsity}
        if update is not None:
            tensors = {
                f"bert.encoder.layer.{layer}.{matrix}.weight": min(0.999, sparsity * (0.85 + 0.1 * number))
                for layer in range(LAYERS)
                for number, matrix in enumerate(MATRICES)
            }
            planned = {"update_step": taken, "update_sparsity": update.sparsity}
            measured = {"update_seconds": 0.012, "update_bytes_sent": 26_000, "tensor_sparsity": tensors}
            rows.append({"step": step, **planned, **reached, **measured})
        if step % recipe.tracking.log_every == 0:
            peak = recipe.learning_rate.peak or 0.0
            loss = 0.2 + 0.5 * math.exp(-step / 60) + (0.3 * sparsity if update else 0) + 0.02 * rng.random()
            rate = peak * timetable.lr_multiplier(taken)
            rows.append({"step": step, "loss": loss, "learning_rate": rate, **reached})
        if step % STEPS_PER_EPOCH == 0:
            now = score - 0.3 * math.exp(-step / 60)
            rows.append({"step": step, "validation_accuracy": now if step < length else score})
    return rows


def _summary(recipe: Recipe, timetable: Timetable, score: float) -> Row:
    sparsity = recipe.pruning.sparsity if recipe.pruning else 0.0
    return {
        "recipe": recipe.name,
        "metrics": {"accuracy": score, "f1_macro": score - 0.01},
        "sparsity": {"prunable": sparsity, "model": PRUNABLE_SHARE * sparsity},
        "steps": timetable.total_steps,
        "seed": recipe.seed,
        "seconds": 123.4,
    }
