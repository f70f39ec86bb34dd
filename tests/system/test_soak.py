"""`scripts/soak.py` itself: a few rounds of it."""

import subprocess
import sys
from pathlib import Path

from dsprune.testing.commands import environment

ROOT = Path(__file__).parents[2]


def test_three_rounds_survive(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "scripts/soak.py",
        "--rounds",
        "3",
        "--ranks",
        "1",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 rounds survived" in done.stdout
