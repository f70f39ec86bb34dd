"""Commands as people type them: `dsprune ...`, and `deepspeed --module dsprune ...` on two ranks."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TIMEOUT = 300  # seconds; quiet machines need a tenth


def environment() -> dict[str, str]:
    """This process's own, without what launchers and Weights & Biases read."""
    theirs = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    wandbs = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SERVICE")  # the last is that of this process
    own = {name: value for name, value in os.environ.items() if name not in theirs + wandbs}
    return own | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def dsprune_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dsprune", *map(str, arguments)]


def launcher_command(*arguments: str | Path) -> list[str]:
    """The deepspeed launcher with two ranks; what comes next is its own (`--module dsprune train ...`)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    return [sys.executable, launcher, "--num_accelerators", "2", "--master_port", port, *map(str, arguments)]


def run(command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment() | extra, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


def dsprune(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(dsprune_command(*arguments), **extra)


def launched(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(launcher_command("--module", "dsprune", *arguments), **extra)


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What dsprune itself says on stderr."""
    return [line for line in done.stderr.splitlines() if line.startswith("dsprune:")]


def write_recipe(path: Path, model: Path, data: Path, **sections: Any) -> Path:
    """A recipe that trains a tiny model in a second: 10 steps an epoch, mask updates at steps 10, 20 and 30."""
    recipe = {
        "model": {"path": str(model)},
        "task": {
            "name": "text-classification",
            "train": str(data / "train.csv"),
            "validation": str(data / "validation.csv"),
            "max_length": 32,
        },
        "budget": {"epochs": 4, "batch": 32},
        "pruning": {"sparsity": 0.9, "start": 10, "end": 30, "updates": 3},
        "learning_rate": {"peak": 5e-3},
        "tracking": {"log_every": 4},
        "output": str(path.parent / "runs"),
    }
    path.write_text(yaml.safe_dump(recipe | sections))
    return path
