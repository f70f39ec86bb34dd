"""`dsprune stop`: stop a run with a checkpoint."""

from pathlib import Path

from rich.console import Console

from dsprune.errors import UserError
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import read_status
from dsprune.utils.console import say

__all__ = ["stop"]


def stop(path: Path, console: Console) -> None:
    """Create the stop file of a running run; the run checks for it and stops with a checkpoint.

    Raises:
        UserError: there is no run at `path`, or it has ended.
    """
    run = RunFolder(path)
    status = read_status(run.status)
    if status.state != "running":
        raise UserError(f"{path}: the run is not running, it has {status.state}: nothing to stop")
    run.stop_file.touch()
    say(console, f"{path}: asked to stop after step {status.step}; dsprune train resumes it")
