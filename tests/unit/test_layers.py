"""Imports point down, checked by ruff; and what must be quick imports nothing slow."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dsprune"

UPWARD = [
    ("pure", "import torch.distributed"),
    ("pure", "import deepspeed"),
    ("pure", "from transformers import AutoModel"),
    ("pure", "from dsprune.distributed.comm import Comm"),
    ("pure", "from dsprune.engine import zero"),
    ("pure", "from dsprune.programs import run"),
    ("pure", "from dsprune.tasks import task"),
    ("pure/masks", "from dsprune.distributed.comm import Comm"),
    ("distributed", "import deepspeed"),
    ("distributed", "from deepspeed.runtime import zero"),
    ("distributed", "from dsprune.engine.zero import ZeroLayout"),
    ("distributed", "from dsprune.programs import run"),
    ("distributed", "from dsprune.tasks import task"),
    ("distributed/selection", "from dsprune.engine import zero"),
    ("engine", "from dsprune.programs.run import RunFolder"),
    ("engine", "from dsprune.tasks.task import Task"),
    ("tasks", "import deepspeed"),
    ("tasks", "from dsprune.engine import zero"),
    ("tasks", "from dsprune.programs import run"),
    ("programs", "import deepspeed"),
]

DOWNWARD = [
    ("pure", "import torch"),
    ("distributed", "import torch.distributed"),
    ("distributed", "from dsprune.pure.shard import Shard"),
    ("engine", "import deepspeed"),
    ("engine", "from dsprune.distributed.comm import Comm"),
    ("tasks", "import transformers"),
    ("tasks", "from dsprune.pure.recipe import Task"),
    ("programs", "from dsprune.engine.engine import initialize"),
    ("programs", "from dsprune.tasks.task import Task"),
]


def banned(folder: str, line: str) -> str:
    """What ruff says of a file with this line, as if it lay in a folder of the package."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--no-cache"]
    as_if = ["--output-format", "concise", "--stdin-filename", str(PACKAGE / folder / "not_there.py"), "-"]
    done = subprocess.run([*command, *as_if], input=f"{line}\n", capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize(("folder", "line"), UPWARD)
def test_an_upward_import_is_caught(folder: str, line: str) -> None:
    assert "TID251" in banned(folder, line)


@pytest.mark.parametrize(("folder", "line"), DOWNWARD)
def test_a_downward_import_is_not(folder: str, line: str) -> None:
    assert "TID251" not in banned(folder, line)


SLOW = ("torch", "deepspeed", "transformers", "datasets", "pyarrow", "wandb", "matplotlib", "numpy")
HELP = """
sys.argv = ["dsprune", "--help"]
from dsprune.programs.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("what", ["import dsprune; dsprune.UserError", HELP], ids=["import", "help"])
def test_what_must_be_quick_imports_nothing_slow(what: str) -> None:
    program = f"import sys\n{what}\nprint([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
