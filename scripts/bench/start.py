"""The CPU time of a start: `--help`, `plan`, and `train` up to its first step, on the demo's model and data."""

import os
import resource
import subprocess
import sys
from statistics import median

from bench.figures import Row

__all__ = ["starts"]

RECIPE = ("sentiment-dense", "model.path=data/minilm")

# Ends the process after its first step, with the same garbage collection settings as the command.
FIRST_STEP = """
import gc, os, sys
gc.set_threshold(100_000, 50, 50)
from dsprune.commands.cli import main
from dsprune.engine.engine import PruningEngine
step = PruningEngine.step
def step_and_end(*args, **kwargs):
    step(*args, **kwargs)
    os._exit(0)
PruningEngine.step = step_and_end
main()
"""


def starts(folder: str, repeats: int) -> list[Row]:
    """Return the median CPU seconds (user and system) of each start."""
    commands = {
        "dsprune --help": ("-m", "dsprune", "--help"),
        "dsprune plan": ("-m", "dsprune", "plan", *RECIPE),
        "dsprune train, up to its first step": ("-c", FIRST_STEP, "train", *RECIPE, f"output={folder}"),
        "import torch, transformers.modeling_utils, datasets, deepspeed alone": (
            "-c",
            "import torch, transformers.modeling_utils, datasets, deepspeed",
        ),
    }
    for command in commands.values():  # compiles to bytecode, and fills the system's cache
        seconds(command)
    return [
        Row(what, f"{median(seconds(command) for _ in range(repeats)):.2f} s of CPU")
        for what, command in commands.items()
    ]


def seconds(command: tuple[str, ...]) -> float:
    """Return the CPU seconds of a Python command and of its child processes."""
    # Of the process that measures.
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
