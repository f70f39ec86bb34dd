"""What a run began with: the command, versions and timetable, for whoever wants to do it again."""

import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from dsprune.pure.files import replace_text
from dsprune.pure.schedule import Timetable

__all__ = ["command_line", "versions", "write_start"]

PACKAGES = ("dsprune", "torch", "deepspeed", "transformers")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def command_line() -> str:
    """The command that this process is, without what a launcher added."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local")]
    return shlex.join(["dsprune", *arguments])


def write_start(path: Path, timetable: Timetable, world_size: int, device: str) -> None:
    """Write `start.json`; a run that goes on writes what it goes on with."""
    record = {
        "command": command_line(),
        "world_size": world_size,
        "device": device,
        "versions": versions(),
        "timetable": timetable.to_dict(),
    }
    replace_text(path, json.dumps(record, indent=2) + "\n")
