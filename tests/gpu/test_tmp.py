"""The commands of a run, and the examples, on a GPU in one process."""

import json
import re
from pathlib import Path

import pytest

from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.run_folder import RunFolder
from tests.distilled import write_distilled
from tests.gpu.processes import ROOT, run

pytestmark = pytest.mark.gpu

REACHED = "sparsity 0.9000 after 12 steps"


def dsprune(*arguments: object, status: int = 0) -> str:
    """Run a command, and return what it printed."""
    return run("-m", "dsprune", *arguments, status=status)


def test_a_run_from_its_teacher_to_its_compact_model(tmp_path: Path) -> None:
    recipe = write_distilled(
        tmp_path, num_train=120, pruning={"sparsity": 0.8, "updates": 2}, precision="bf16"
    )
    store, run_folder = tmp_path / "store", RunFolder(tmp_path / "runs" / "distilled")
    chosen = (recipe, f"distillation.store={store}")
    dsprune("teacher", *chosen)
    assert "Selection: one rank sends nothing" in dsprune("plan", *chosen)
    dsprune("train", *chosen)
    assert json.loads((run_folder.path / "start.json").read_text())["device"] in ("cuda:0", "cpu")
    assert "80.00 %" in dsprune("audit", run_folder.path)

    metrics = json.loads((run_folder.path / "summary.json").read_text())["metrics"]
    data = [f"{split}={tmp_path / 'data' / split}.csv" for split in ("train", "validation")]
    again = dsprune("eval", run_folder.model, "--task", "text-classification", *data, "max_length=24")
    assert f"accuracy {metrics['accuracy']:.4f}" in " ".join(again.split())

    compact, expanded = tmp_path / "compact", tmp_path / "expanded"
    dsprune("export", run_folder.path, "--to", compact, "--compact")
    dsprune("export", compact, "--to", expanded, "--expand")
    assert (expanded / "model.safetensors").read_bytes() == (
        run_folder.model / "model.safetensors"
    ).read_bytes()


def test_the_commands_that_measure(tmp_path: Path) -> None:
    recipe = write_distilled(tmp_path, num_train=120, pruning={"sparsity": 0.8, "updates": 2})
    store = tmp_path / "store"
    chosen = (recipe, f"distillation.store={store}")
    dsprune("teacher", *chosen, "--stage", 3, "--precision", "bf16")
    assert re.search(r"T = [\d.]+", dsprune("calibrate", store, "--recipe", recipe))
    rate = dsprune("calibrate", "--rate", "--recipe", recipe, "--steps", 8, "--output", tmp_path / "rates")
    assert "learning_rate.peak" in rate

    model = tiny_bert(tmp_path / "model")
    plain = write_recipe(tmp_path / "plain.yaml", model, tiny_sentiment(tmp_path / "plain", num_train=320))
    dsprune("analyze", plain, "--recovery-steps", 4, "--output", tmp_path / "analysis")
    assert (tmp_path / "analysis" / "analysis.json").is_file()
    pass


@pytest.mark.parametrize("example", ["own_loop", "trainer", "accelerate_loop", "lightning_module"])
def test_an_example_prunes(example: str, tmp_path: Path) -> None:
    assert REACHED in run(ROOT / "examples" / f"{example}.py", tmp_path)
    assert "90.00 %" in dsprune("audit", tmp_path / "model")


def test_a_loop_with_stored_teacher_logits(tmp_path: Path) -> None:
    run(ROOT / "examples" / "data.py", tmp_path)
    dsprune("teacher", tmp_path / "recipe.yaml")
    assert REACHED in run(ROOT / "examples" / "distilled_loop.py", tmp_path)


def test_a_script_that_knows_nothing_of_dsprune(tmp_path: Path) -> None:
    examples = ROOT / "examples"
    words = ("--recipe", examples / "recipe.yaml", "--steps-per-epoch", 4)
    dsprune("run", *words, examples / "plain_deepspeed.py", tmp_path)
    assert "90.00 %" in dsprune("audit", tmp_path / "checkpoints" / "global_step12")
