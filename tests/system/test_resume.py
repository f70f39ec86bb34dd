"""Runs that are stopped or killed go on as if nothing had happened, bit for bit, with dropout on."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsprune.engine.checkpoint_tags import whole_tags
from dsprune.programs.run import RunFolder
from dsprune.programs.status_file import Status, read_status
from scripts.soaking.compare import differences
from scripts.soaking.ranks import Ranks, prepare
from tests.system.commands import write_recipe
from tests.tiny import tiny_bert, tiny_sentiment


@dataclass(frozen=True)
class Workshop:
    """A recipe whose model drops out, and a run of it on two ranks that nobody disturbed."""

    folder: Path
    recipe: Path
    whole: RunFolder

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / name)

    def start(self, name: str, *arguments: str, world_size: int = 2, **environment: str) -> Ranks:
        words = ["train", str(self.recipe), f"name={name}", *arguments]
        return Ranks(words, world_size, self.folder / "logs" / name, **environment)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    prepare()
    folder = tmp_path_factory.mktemp("resume")
    data = tiny_sentiment(folder / "data", 320, 64)
    recipe = write_recipe(folder / "tiny.yaml", tiny_bert(folder / "bert"), data, checkpoints={"every": 10})
    made = Workshop(folder, recipe, RunFolder(folder / "runs" / "whole"))
    ranks = made.start("whole")
    assert ranks.wait() == [0, 0], ranks.said()
    return made


def wait_for(ranks: Ranks, run: RunFolder, step: int) -> None:
    """Until the log of a run has come to a step."""
    deadline = time.monotonic() + 120
    while not run.metrics.exists() or f'{{"step": {step},' not in run.metrics.read_text():
        assert time.monotonic() < deadline
        assert all(process.exitcode is None for process in ranks.processes), ranks.said()
        time.sleep(0.005)


def status_of(run: RunFolder) -> Status:
    return read_status(run.status)


def test_a_run_keeps_its_newest_checkpoints(workshop: Workshop) -> None:
    tags = [folder.name for folder in whole_tags(workshop.whole.checkpoints)]
    assert tags == ["global_step40", "global_step30"]
    assert (workshop.whole.checkpoints / "latest").read_text() == "global_step40"


@pytest.mark.parametrize("changes", [(), ("deepspeed=zero3", "precision=bf16")], ids=["zero2", "zero3 bf16"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    workshop: Workshop, changes: tuple[str, ...]
) -> None:
    whole, stopped = workshop.whole, workshop.run(f"stopped{len(changes)}")
    if changes:
        whole = workshop.run("another")
        assert workshop.start("another", *changes).wait() == [0, 0]
    ranks = workshop.start(stopped.path.name, *changes)
    wait_for(ranks, stopped, 12)
    ranks.signal(signal.SIGTERM, [1])
    assert ranks.wait() == [75, 75]
    status = status_of(stopped)
    assert 12 <= status.step < 40
    assert (status.state, status.checkpoint) == ("stopped", f"global_step{status.step}")
    assert any(line.startswith("dsprune: SIGTERM: stopped at step") for line in ranks.complaints())
    ranks = workshop.start(stopped.path.name, *changes)
    assert ranks.wait() == [0, 0], ranks.said()
    assert f"goes on from {stopped.checkpoints}/{status.checkpoint}, step {status.step}" in ranks.said()
    assert list(differences(whole, stopped)) == []


@pytest.mark.parametrize("victims", [[0], [1], [0, 1]], ids=["rank 0", "rank 1", "all"])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(workshop: Workshop, victims: list[int]) -> None:
    killed = workshop.run(f"killed{victims}".replace("[", "").replace("]", "").replace(", ", "-"))
    ranks = workshop.start(killed.path.name)
    wait_for(ranks, killed, 24)
    ranks.signal(signal.SIGKILL, victims)
    codes = ranks.wait()
    assert all(codes[rank] == -signal.SIGKILL for rank in victims)
    assert None not in codes, "the others ended by themselves"
    ranks = workshop.start(killed.path.name)
    assert ranks.wait() == [0, 0], ranks.said()
    assert f"goes on from {killed.checkpoints}/global_step20, step 20" in ranks.said()
    assert list(differences(workshop.whole, killed)) == []
