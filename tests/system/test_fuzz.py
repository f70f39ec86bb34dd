"""A short fuzz of damaged files; `scripts/fuzz.py --hours N` is a long one."""

import sys
from pathlib import Path

from dsprune.testing.commands import run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
FILES = ("run", "checkpoint", "model", "compact", "store")


def test_damaged_files_end_with_sense_or_with_one_line() -> None:
    targets = [f"--target={name}" for name in FILES]
    done = run([sys.executable, str(SCRIPT), "--inputs=4", "--seed=1", *targets])
    assert done.returncode == 0, done.stderr + done.stdout
    assert "20 inputs in" in done.stdout
    assert ", 0 wrong" in done.stdout
