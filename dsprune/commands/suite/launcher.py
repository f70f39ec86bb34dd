"""Run dsprune commands in new processes, so that a failure or a lack of memory does not end the suite."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dsprune.errors import EXIT_STOPPED, StoppedError, UserError
from dsprune.recipe import Recipe, load_recipe
from dsprune.train.run_folder import RunFolder
from dsprune.utils.files import replace_text
from dsprune.utils.ports import free_port

__all__ = ["Launcher", "is_finished"]

GRACE = 120.0
"""Seconds for a process to save its checkpoint when the suite is stopped, before it is killed."""


@dataclass(frozen=True)
class Launcher:
    """Runs commands on one or more ranks of this host.

    Attributes:
        output: folder of the suite, for recipes and logs.
        num_ranks: number of processes of each command.
    """

    output: Path
    num_ranks: int

    def command(self, name: str, recipe: Path, *arguments: str) -> list[str]:
        """Return the command line of a dsprune command on a recipe file, with the launcher for several ranks."""
        module = ["dsprune", name, str(recipe), *arguments]
        if self.num_ranks == 1:
            return [sys.executable, "-m", *module]
        deepspeed = str(Path(sys.executable).with_name("deepspeed"))
        ranks = ["--num_accelerators", str(self.num_ranks), "--master_port", str(free_port())]
        return [sys.executable, deepspeed, *ranks, "--module", *module]

    def run(self, name: str, run: str, recipe: str, *arguments: str) -> None:
        """Run a command to its end, and write its output to a log.

        Args:
            name: name of the command.
            run: name of the recipe file and of the log.
            recipe: the recipe as YAML.
            arguments: further arguments of the command.

        Raises:
            StoppedError: the command was stopped with a checkpoint or interrupted, which stops the suite too.
            UserError: the command failed; the message quotes the last message in its log.
        """
        path, log = self.output / "recipes" / f"{run}.yaml", self.output / "logs" / f"{run}.log"
        for folder in (path.parent, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, recipe)
        start = log.stat().st_size if log.exists() else 0  # an earlier attempt has its messages before it
        try:
            code = run_process(self.command(name, path, *arguments), log)
        except KeyboardInterrupt:
            raise StoppedError(f"{run}: interrupted; run the same command again to resume") from None
        if code == EXIT_STOPPED:
            raise StoppedError(f"{run}: stopped with a checkpoint; run the same command again to resume")
        if code:
            raise UserError(f"{run}: exit code {code}: {_last_message(log, start)}: see {log}")


def is_finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Return whether the run of a recipe has ended.

    Raises:
        UserError: the run has ended, with other settings.
    """
    if not folder.summary.exists():
        return False
    if load_recipe(str(folder.recipe)) != recipe:
        raise UserError(
            f"{folder.path}: was made with another recipe: give another --output, or remove this folder"
        )
    return True


def run_process(command: list[str], log: Path) -> int:
    """Run a command to its end, append its output to a log, and return its exit code."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:  # the suite was interrupted: stop the run with a checkpoint
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _last_message(log: Path, start: int) -> str:
    """Return the last error of dsprune in a log after its first `start` bytes, otherwise the last line."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    errors = [line.removeprefix("dsprune: ") for line in lines if line.startswith("dsprune: ")]
    return (errors or lines or ["no output"])[-1]
