"""Run dsprune commands in a test: in new processes, under the deepspeed launcher, or on the ranks of a pool."""

import contextlib
import gc
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsprune.commands.cli import run_command
from dsprune.ranks.collectives import Comm
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import load_recipe
from dsprune.utils.ports import free_port

__all__ = [
    "NOISE",
    "TIMEOUT",
    "Done",
    "command",
    "dsprune",
    "dsprune_command",
    "environment",
    "error_lines",
    "launched",
    "launcher_command",
    "run",
    "train_on_rank",
]

TIMEOUT = 300
"""Timeout of a command in seconds; an idle machine needs a tenth."""

NOISE = ("%|", "Warning", "Traceback")
"""Text that a successful run must not print: progress bars of libraries, warnings, errors."""

_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_WANDB_VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SERVICE")


# ---- new processes


def environment() -> dict[str, str]:
    """Return this process's environment without the variables of launchers and Weights & Biases."""
    left_out = _LAUNCHER_VARIABLES + _WANDB_VARIABLES
    own = {name: value for name, value in os.environ.items() if name not in left_out}
    return own | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def dsprune_command(*arguments: str | Path) -> list[str]:
    """Return the command line of `dsprune ARGUMENTS` with this Python."""
    return [sys.executable, "-m", "dsprune", *map(str, arguments)]


def launcher_command(*arguments: str | Path) -> list[str]:
    """Return the command line of the deepspeed launcher on two ranks; `arguments` are those of the launcher."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    options = ("--num_accelerators", "2", "--master_port", str(free_port()))
    return [sys.executable, launcher, *options, *map(str, arguments)]


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `extra` environment variables."""
    return subprocess.run(
        command, env=environment() | extra, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


def dsprune(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `dsprune ARGUMENTS` in a new process."""
    return run(dsprune_command(*arguments), **extra)


def launched(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `deepspeed --module dsprune ARGUMENTS` on two ranks."""
    return run(launcher_command("--module", "dsprune", *arguments), **extra)


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that dsprune itself wrote to stderr."""
    return [line for line in done.stderr.splitlines() if line.startswith("dsprune:")]


# ---- ranks of a pool


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command on one rank."""

    code: int
    stdout: str
    stderr: str

    @property
    def error_line(self) -> str:
        """The line that reports bad input."""
        assert self.code == 2, self
        [line] = [line for line in self.stderr.splitlines() if line.startswith("dsprune: ")]
        assert "Traceback" not in self.stderr
        return line


def command(comm: Comm, *arguments: str) -> Done:
    """Run `dsprune ARGUMENTS` on a rank that has started already, for `RankPool.run`.

    Collective: every rank must call this.
    """
    os.environ.update(RANK=str(comm.rank), LOCAL_RANK=str(comm.rank), WORLD_SIZE=str(comm.size))
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run_command(list(arguments))
    gc.collect()  # the engine is in reference cycles
    return Done(code, stdout.getvalue(), stderr.getvalue())


def train_on_rank(comm: Comm, recipe: str, overrides: Sequence[str] = ()) -> None:
    """Train like `dsprune train`, without a report, for `RankPool.run`; errors are raised.

    Collective: every rank must call this.
    """
    from dsprune.train.train import train

    os.environ["LOCAL_RANK"] = str(comm.rank)
    ranks = Ranks(comm.rank, comm.rank, comm.size)
    train(load_recipe(recipe, overrides), ranks, Console(file=io.StringIO()))
    gc.collect()  # the engine is in reference cycles
