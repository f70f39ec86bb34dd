"""Processes on the GPU of this machine."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: object, status: int = 0, environment: Mapping[str, str] | None = None) -> str:
    """Run Python on the GPU in a process of its own, and return what it printed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (environment or {})
    variables.pop("TORCHDYNAMO_DISABLE", None)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout
