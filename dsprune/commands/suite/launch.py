"""Commands of dsprune as processes of their own: one that fails, or runs out of memory, takes no other with it."""

import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dsprune.errors import EXIT_STOPPED, StoppedError, UserError
from dsprune.utils.files import replace_text

__all__ = ["Launcher"]

GRACE = 120.0
"""Seconds that a process gets for its checkpoint when the suite is stopped."""


@dataclass(frozen=True)
class Launcher:
    """Runs commands, on one process or on several ranks of this host.

    Attributes:
        output: folder of the suite; recipes and logs go there.
        num_ranks: processes of each command.
    """

    output: Path
    num_ranks: int

    def command(self, name: str, recipe: Path, *arguments: str) -> list[str]:
        """A command of dsprune on a recipe file, with the launcher that it needs."""
        module = ["dsprune", name, str(recipe), *arguments]
        if self.num_ranks == 1:
            return [sys.executable, "-m", *module]
        deepspeed = str(Path(sys.executable).with_name("deepspeed"))
        ranks = ["--num_accelerators", str(self.num_ranks), "--master_port", str(_free_port())]
        return [sys.executable, deepspeed, *ranks, "--module", *module]

    def run(self, name: str, run: str, recipe: str, *arguments: str) -> None:
        """Run a command to its end; what it says goes into a log.

        Args:
            name: of the command.
            run: names the recipe's file and the log.
            recipe: as YAML.
            arguments: of the command.

        Raises:
            StoppedError: it was stopped with a checkpoint, and so is the suite.
            UserError: it failed; says what its log ends with.
        """
        path, log = self.output / "recipes" / f"{run}.yaml", self.output / "logs" / f"{run}.log"
        for folder in (path.parent, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, recipe)
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen(
                self.command(name, path, *arguments), stdout=file, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait()
            except BaseException:  # the suite is to end: so is the run, with a checkpoint
                process.send_signal(signal.SIGTERM)
                process.wait(GRACE)
                raise
        if code == EXIT_STOPPED:
            raise StoppedError(f"{run}: stopped with a checkpoint; the same command goes on from there")
        if code:
            raise UserError(f"{run}: exit code {code}: {_last_words(log)}: see {log}")


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("dsprune: ") for line in lines if line.startswith("dsprune: ")]
    return (said or lines or ["said nothing"])[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
