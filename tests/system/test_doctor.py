"""`dsprune doctor`, with all its checks."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from dsprune.commands.cli import run_command
from dsprune.commands.doctor import doctor


def test_a_stale_lock_makes_doctor_fail_and_removing_it_makes_it_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    output = Console(file=io.StringIO(), width=400)
    assert doctor(output) == 1
    assert f"rm {lock}" in output.file.getvalue()
    lock.unlink()
    assert run_command(["doctor"]) == 0
    printed = capsys.readouterr().out.splitlines()
    for check in ("python", "packages", "torch", "accelerator", "ranks", "slurm", "wandb", "disk"):
        assert any(line.startswith(check) for line in printed)
