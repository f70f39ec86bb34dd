"""The examples of every way to use dsprune, run like a user."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from dsprune.commands.cli import run_command
from dsprune.testing.commands import launched
from dsprune.testing.forked import ForkedRanks

EXAMPLES = Path(__file__).parents[2] / "examples"
REACHED = "sparsity 0.9000 after 12 steps"


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(folder / "model.safetensors").items()}


def run_example(name: str, folder: Path, *arguments: str, world_size: int = 1) -> str:
    """Run an example that succeeds, and return the output of its first rank."""
    script = EXAMPLES / f"{name}.py"
    ranks = ForkedRanks([str(folder), *arguments], world_size, folder / "logs" / name, script=script)
    assert ranks.wait() == [0] * world_size, ranks.said()
    return ranks.printed()


def test_a_loop_of_ones_own_on_two_ranks(tmp_path: Path) -> None:
    assert REACHED in run_example("own_loop", tmp_path, world_size=2)
    assert run_command(["audit", str(tmp_path / "model")]) == 0


def test_a_loop_of_ones_own_with_stored_teacher_logits(tmp_path: Path) -> None:
    run_example("data", tmp_path)
    teacher = ForkedRanks(["teacher", str(tmp_path / "recipe.yaml")], 1, tmp_path / "logs" / "teacher")
    assert teacher.wait() == [0], teacher.said()
    assert REACHED in run_example("distilled_loop", tmp_path)


@pytest.mark.parametrize("example", ["trainer", "accelerate_loop", "lightning_module"])
def test_a_framework_resumes_as_if_uninterrupted(example: str, tmp_path: Path) -> None:
    assert REACHED in run_example(example, tmp_path)
    uninterrupted = weights(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert REACHED in run_example(example, tmp_path, "--resume")
    assert weights(tmp_path / "model") == uninterrupted
    assert run_command(["audit", str(tmp_path / "model")]) == 0


def test_a_script_that_knows_nothing_of_dsprune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = EXAMPLES / "plain_deepspeed.py"
    recipe = EXAMPLES / "recipe.yaml"
    # Takes --local_rank.
    done = launched("run", "--recipe", recipe, "--steps-per-epoch", "4", script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_command(["audit", str(tmp_path / "checkpoints" / "global_step12")]) == 0
    assert "90.00 %" in capsys.readouterr().out
    assert done.stderr.count("dsprune: 12 steps, 90.00 % of the prunable weights are zero") == 1


def test_a_script_that_ends_too_soon_fails(tmp_path: Path) -> None:
    options = ["--recipe", str(EXAMPLES / "recipe.yaml"), "--steps-per-epoch", "40"]
    words = ["run", *options, str(EXAMPLES / "plain_deepspeed.py"), str(tmp_path)]
    ranks = ForkedRanks(words, 1, tmp_path / "logs")
    assert ranks.wait() != [0]
    assert "training ended at step 12" in ranks.said()
    assert "Traceback" not in ranks.said()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "nowhere.yaml", str(EXAMPLES / "plain_deepspeed.py")], "nowhere.yaml"),
        (["--recipe", str(EXAMPLES / "recipe.yaml"), "nowhere.py"], "nowhere.py"),
    ],
)
def test_run_refuses_what_does_not_exist(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["run", *arguments]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors
