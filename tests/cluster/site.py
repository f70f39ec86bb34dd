"""A site with a Slurm: a folder to submit from, recipes, and the scripts of slurm/ edited at their marked places."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from dsprune.commands.cli import run_command
from dsprune.testing.commands import environment
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from tests.cluster.slurm import GPUS, Slurm

SLURM = Path(__file__).resolve().parents[2] / "slurm"

PATIENCE = 400  # timeout of a job in seconds; idle machines need a tenth

# What a process of this test needs to find this Python and this dsprune.
CARRIED = (
    *("PYTHONPATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
    *("HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE"),
)


@dataclass(frozen=True)
class Site:
    """A folder to submit from, the scripts, and a Slurm."""

    folder: Path
    scripts: Path
    slurm: Slurm

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user who submits from here."""
        own = {"HOME": str(self.folder), "PYTHONPATH": str(SLURM.parent), "DSPRUNE_SLURM": str(self.scripts)}
        return environment() | self.slurm.environment | own

    def submit(self, *command: str | Path) -> str:
        """The output of a command that submits jobs."""
        done = subprocess.run(
            [*map(str, command)], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dsprune(self, *arguments: str | Path) -> str:
        """The output of a dsprune command in this process."""
        printed = io.StringIO()
        own = mock.patch.dict(os.environ, self.environment, clear=True)
        with own, contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            assert run_command([*map(str, arguments)]) == 0, printed.getvalue()
        return printed.getvalue()

    def log(self, job: str) -> str:
        return Path(self.slurm.field(job, "StdOut")).read_text()


def make_site(folder: Path, slurm: Slurm) -> Site:
    """A site with the recipes long, dense, plain and student."""
    bert = tiny_bert(folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data = tiny_sentiment(folder / "data", 320, 64)
    short = {
        "budget": {"steps": 12, "batch": 32},
        "pruning": {"sparsity": 0.7, "start": 2, "end": 6, "updates": 2},
    }
    tracking = {"wandb": True, "log_every": 4}
    write_recipe(
        folder / "long.yaml", bert, data, budget={"steps": 200, "batch": 32}, pruning={"sparsity": 0.9},
        checkpoints={"every": 20}, tracking=tracking,
    )  # fmt: skip
    write_recipe(folder / "dense.yaml", bert, data, **{**short, "pruning": None})
    write_recipe(folder / "plain.yaml", bert, data, **short, output="runs")
    teacher = {
        "teacher": str(folder / "runs" / "dense" / "model"),
        "store": str(folder / "store"),
        "hardness": 0.5,
    }
    write_recipe(folder / "student.yaml", bert, data, **short, distillation=teacher, tracking=tracking)
    return Site(folder, edited_scripts(folder, GPUS, "900"), slurm)


def edited_scripts(folder: Path, gpus: int, sparsities: str) -> Path:
    """A copy of slurm/ with this site's lines below each EDIT."""
    slurm = Path(shutil.copytree(SLURM, folder / "slurm"))
    own = environment() | {"PYTHONPATH": str(SLURM.parent)}
    exports = " ".join(f"{name}={own[name]}" for name in CARRIED if name in own)
    path = f"export PATH={Path(sys.executable).parent}:$PATH {exports}"
    _edit(slurm / "site.sh", r"(# EDIT: Python environment.*\n).*\n", rf"\1{path}\n")
    for script in ("train.sbatch", "teacher.sbatch", "suite.sbatch"):
        header = f"#SBATCH --gpus-per-node={gpus}\n#SBATCH --cpus-per-task={gpus}\n#SBATCH --time=00:30:00\n"
        _edit(slurm / script, r"(# EDIT: GPUs.*\n)(?:#SBATCH.*\n){3}", rf"\1{header}")
    _edit(slurm / "pipeline.sh", r"(# EDIT: the sparsities.*\n).*\n", rf"\1SPARSITIES={sparsities}\n")
    return slurm


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text, edits = re.subn(pattern, replacement, path.read_text())
    assert edits == 1, f"{path}: its marked places are not where they were"
    path.write_text(text)
