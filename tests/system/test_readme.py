"""What the README shows is there, and runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsprune.programs.cli import app
from tests.system.readme import README, blocks


def test_the_loop_reaches_its_target(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(README.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.system.readme"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sparsity_prunable"] == pytest.approx(0.9)
    assert result["clock"] == 10 * 3


def test_every_command_that_it_names_exists() -> None:
    shown = set(re.findall(r"^dsprune (\w+)", "\n".join(blocks("")), flags=re.MULTILINE))
    commands = app.registered_commands
    assert shown == {command.name or command.callback.__name__ for command in commands if command.callback}


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if "://" not in link and not (README.parent / link).exists()]
    assert not missing
