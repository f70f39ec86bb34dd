import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dsprune.commands.doctor import doctor


def test_a_stale_lock_makes_doctor_fail_and_removing_it_makes_it_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    output = Console(file=io.StringIO(), width=400)
    assert doctor(output) == 1
    assert f"rm {lock}" in output.file.getvalue()  # type: ignore[attr-defined]
    lock.unlink()
    assert doctor(output) == 0


def test_the_command_prints_a_line_for_each_check() -> None:
    command = [sys.executable, "-m", "dsprune", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for check in ("python", "packages", "torch", "accelerator", "ranks", "slurm", "wandb", "disk"):
        assert any(line.startswith(check) for line in done.stdout.splitlines())
