"""Runs for the tests of stopping and resuming: forked ranks, a model with dropout, a recipe of 40 steps."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

from dsprune.testing.forked import ForkedRanks
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import Status, read_status


@dataclass(frozen=True)
class Workshop:
    """A recipe, and a folder for its runs."""

    folder: Path
    recipe: Path

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / name)

    def start(
        self, name: str, *arguments: str, world_size: int = 2, last: list[str] | None = None
    ) -> ForkedRanks:
        """`dsprune train` of the recipe, as run `name`."""
        words = ["train", str(self.recipe), f"name={name}", *arguments]
        return ForkedRanks(words, world_size, self.folder / "logs" / name, last or [])

    def start_and_stop(self, name: str, *arguments: str, step: int, world_size: int = 2) -> RunFolder:
        """Run until after a step, and stop."""
        ranks, run = self.start(name, *arguments, world_size=world_size), self.run(name)
        wait_for(ranks, run, step)
        ranks.signal(signal.SIGTERM)
        assert set(ranks.wait()) == {75}, ranks.said()
        return run


def make_workshop(folder: Path) -> Workshop:
    data, bert = tiny_sentiment(folder / "data", 320, 64), tiny_bert(folder / "bert")
    tracking = {"log_every": 2}
    recipe = write_recipe(folder / "tiny.yaml", bert, data, checkpoints={"every": 10}, tracking=tracking)
    return Workshop(folder, recipe)


def wait_for(ranks: ForkedRanks, run: RunFolder, step: int) -> None:
    """Wait until the log of a run has reached a step."""
    deadline = time.monotonic() + 120
    while not run.metrics.exists() or f'{{"step": {step},' not in run.metrics.read_text():
        assert time.monotonic() < deadline, ranks.said()
        assert all(process.exitcode is None for process in ranks.processes), ranks.said()
        time.sleep(0.005)


def status_of(run: RunFolder) -> Status:
    return read_status(run.status)
