"""The examples of every way into dsprune, run as a user runs them."""

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dsprune.testing.commands import dsprune, dsprune_command, launched, launcher_command, run

EXAMPLES = Path(__file__).parents[2] / "examples"
REACHED = "sparsity 0.9000 after 12 steps"


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(folder / "model.safetensors").items()}


def test_a_loop_of_ones_own_on_two_ranks(tmp_path: Path) -> None:
    done = run(launcher_command("--no_local_rank", EXAMPLES / "own_loop.py", tmp_path))
    assert done.returncode == 0, done.stderr
    assert REACHED in done.stdout
    audited = dsprune("audit", tmp_path / "model")
    assert audited.returncode == 0, audited.stderr


def test_a_loop_of_ones_own_with_stored_teacher_logits(tmp_path: Path) -> None:
    for command in (
        [sys.executable, str(EXAMPLES / "data.py"), str(tmp_path)],
        dsprune_command("teacher", tmp_path / "recipe.yaml"),
        [sys.executable, str(EXAMPLES / "distilled_loop.py"), str(tmp_path)],
    ):
        done = run(command)
        assert done.returncode == 0, done.stderr
    assert REACHED in done.stdout


@pytest.mark.parametrize("example", ["trainer", "accelerate_loop", "lightning_module"])
def test_a_framework_resumes_as_if_uninterrupted(example: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), str(tmp_path)]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert REACHED in done.stdout
    uninterrupted = weights(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    resumed = run([*command, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert REACHED in resumed.stdout
    assert weights(tmp_path / "model") == uninterrupted
    audited = dsprune("audit", tmp_path / "model")
    assert audited.returncode == 0, audited.stderr


def test_a_script_that_knows_nothing_of_dsprune(tmp_path: Path) -> None:
    script = EXAMPLES / "plain_deepspeed.py"
    recipe = EXAMPLES / "recipe.yaml"
    done = launched(
        "run", "--recipe", recipe, "--steps-per-epoch", "4", script, tmp_path
    )  # takes --local_rank
    assert done.returncode == 0, done.stderr
    audited = dsprune("audit", tmp_path / "checkpoints" / "global_step12")
    assert audited.returncode == 0, audited.stderr
    assert "0.9000" in audited.stdout


def test_a_script_that_ends_too_soon_fails(tmp_path: Path) -> None:
    recipe = EXAMPLES / "recipe.yaml"
    done = dsprune(
        "run", "--recipe", recipe, "--steps-per-epoch", "40", EXAMPLES / "plain_deepspeed.py", tmp_path
    )
    assert done.returncode != 0
    assert "training ended at step 12" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "nowhere.yaml", str(EXAMPLES / "plain_deepspeed.py")], "nowhere.yaml"),
        (["--recipe", str(EXAMPLES / "recipe.yaml"), "nowhere.py"], "nowhere.py"),
    ],
)
def test_run_refuses_what_does_not_exist(arguments: list[str], says: str) -> None:
    done = dsprune("run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
