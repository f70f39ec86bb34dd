"""A script of one's own, started by the launcher on two ranks, prunes to its target at every stage."""

from pathlib import Path

import pytest
import yaml

from dsprune.testing.commands import launcher_command, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_script_reaches_its_target_exactly(tmp_path: Path, stage: int) -> None:
    recipe = tmp_path / "recipe.yaml"
    sections = {
        "budget": {"epochs": 4, "batch": 8},
        "pruning": {"sparsity": 0.8, "start": "1 epoch", "end": "3 epochs", "updates": 3},
        "learning_rate": {"peak": 0.01},
    }
    recipe.write_text(yaml.safe_dump(sections))
    script = ROOT / "tests" / "system" / "ten_lines.py"
    done = run(launcher_command("--no_local_rank", script, recipe, f"zero{stage}"), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    expected = f"sparsity {round(0.8 * 3 * 15 * 15) / (3 * 15 * 15)} step 24"
    assert done.stdout.splitlines().count(expected) == 2, "both ranks say the same"
