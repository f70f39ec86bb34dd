"""A Slurm of the tests ends with the process that started it, and so do its jobs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.slurm import PROGRAMS, obstacle

ROOT = Path(__file__).resolve().parents[2]
JOB = 'sbatch --nodes=2 --output=/dev/null --wrap="srun sleep 5000"; exec sleep 6000'
EXPECTED = Counter(munged=1, slurmctld=1, slurmd=2, slurmstepd=2, sleep=3)


def names(processes: list[psutil.Process]) -> Iterator[str]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process.name()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_daemon_and_no_job_is_left_behind(need: Callable[..., None], number: signal.Signals) -> None:
    need(PROGRAMS, obstacle())
    command = [sys.executable, "-m", "tests.cluster.slurm", "bash", "-c", JOB]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
        # A shell lets background processes ignore SIGINT; the same would happen here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline, started = time.monotonic() + 60, list[psutil.Process]()
    while not Counter(names(started)) >= EXPECTED:
        assert time.monotonic() < deadline, [*names(started)]
        time.sleep(0.1)
        started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    process.wait(60)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert [*names(alive)] == []


WORKER_TEST = """
import time
from tests.cluster.supervised import supervised

def test_that_never_ends(tmp_path):
    with supervised("sleep", "7654321"):
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_the_end_of_pytest_ends_the_programs_of_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_it.py").write_text(WORKER_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-n1", "-pno:cacheprovider", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pytest_process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline, started = time.monotonic() + 120, list[psutil.Process]()
    while "sleep" not in [*names(started)]:
        assert time.monotonic() < deadline, [*names(started)]
        time.sleep(0.2)
        started = psutil.Process(pytest_process.pid).children(recursive=True)
    sleeping = [process for process in started if "sleep" in names([process])]
    pytest_process.send_signal(number)
    _, alive = psutil.wait_procs(sleeping, timeout=30)
    assert alive == []
    for process in started:  # a worker ends when it notices that its controller has ended
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    pytest_process.kill()
    pytest_process.wait()
