"""Stopping a run under the deepspeed launcher: the run is saved, whichever process gets the signal."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from dsprune.testing.commands import NOISE, TIMEOUT, environment, error_lines, launcher_command
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe
from dsprune.train.run_folder import RunFolder
from dsprune.train.status_file import Status, read_status


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launcher")
    data, budget = tiny_sentiment(folder / "data", 320, 64), {"steps": 100_000, "batch": 32}
    return write_recipe(folder / "tiny.yaml", tiny_bert(folder / "bert"), data, budget=budget)


@contextmanager
def launched(recipe: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], RunFolder]]:
    """A run on two ranks in its own session, after it has logged its first steps."""
    command = launcher_command("--module", "dsprune", "train", recipe, f"name={name}")
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    run = RunFolder(recipe.parent / "runs" / name)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not run.metrics.exists() or not run.metrics.read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks, which the launcher's own child starts."""
    [node] = psutil.Process(process.pid).children()
    return node.children()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def stopped(run: RunFolder, reason: str) -> Status:
    """Wait for the end of the run, and return its result."""
    deadline = time.monotonic() + 60
    while (status := read_status(run.status)).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status.state == "stopped"
    assert status.reason.startswith(f"{reason}: stopped at step {status.step}")
    assert status.checkpoint == f"global_step{status.step}"
    return status


def test_a_signal_to_one_rank_stops_all_and_the_launcher_says_75(recipe: Path) -> None:
    with launched(recipe, "one") as (process, run):
        ranks = ranks_of(process)
        ranks[1].send_signal(signal.SIGUSR1)
        output = process.communicate(timeout=60)
        step = stopped(run, "SIGUSR1").step
    done = subprocess.CompletedProcess([], process.returncode, *output)
    assert done.returncode == 75
    assert error_lines(done) == [f"dsprune: SIGUSR1: stopped at step {step}; run the same command to resume"]
    for noise in NOISE:
        assert noise not in done.stderr


def test_a_run_whose_launcher_was_killed_saves_itself(recipe: Path) -> None:
    with launched(recipe, "orphans") as (process, run):
        ranks = ranks_of(process)
        mapped = [Path(f"/proc/{rank.pid}/maps").read_text() for rank in ranks]
        port = process.args[process.args.index("--master_port") + 1]
        process.kill()
        stopped(run, "the launcher is gone")
        deadline = time.monotonic() + 60
        while any(map(is_alive, ranks)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not any(f"_{port}_" in text for text in mapped), "no rank takes shared memory"
