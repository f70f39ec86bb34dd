"""A signal before there is something to save ends a process in any wait."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsprune.testing.forked import ForkedRanks
from dsprune.utils.signals import GRACE

BEGIN = """
import signal, sys, time
from datetime import timedelta
from dsprune.utils.signals import END_SIGNALS, exit_on_signals, stop_exiting_on_signals
exit_on_signals([*END_SIGNALS, signal.SIGUSR1], code=75)
"""

# A rank that waits for a first one that never comes: Python runs no signal handler meanwhile.
IN_A_LIBRARY = """
import torch.distributed as dist
print("waiting", flush=True)
dist.TCPStore("127.0.0.1", 9, is_master=False, timeout=timedelta(seconds=60))
"""

IN_PYTHON = """
try:
    print("waiting", flush=True)
    time.sleep(60)
finally:
    print("unwound", flush=True)
"""

AFTER_STAYING = """
stop_exiting_on_signals()
print("waiting", flush=True)
time.sleep(4)
sys.exit(3)
"""


IGNORED = """
import signal, sys
from dsprune.commands.cli import main
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in slurm/suite.sbatch
sys.argv = ["dsprune", "schema"]
try:
    main()
finally:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
"""


def test_what_a_batch_script_ignores_stays_ignored_but_by_the_ranks(tmp_path: Path) -> None:
    script = tmp_path / "ignored.py"
    script.write_text(IGNORED)
    process = ForkedRanks([], 1, tmp_path / "log", script=script)
    assert process.wait() == [0], process.said()


@pytest.mark.parametrize(
    ("body", "number", "code", "said"),
    [
        (IN_A_LIBRARY, signal.SIGTERM, 75, ""),
        (IN_PYTHON, signal.SIGUSR1, 75, "unwound\n"),
        (IN_PYTHON, signal.SIGHUP, 75, "unwound\n"),
        (AFTER_STAYING, signal.SIGTERM, 3, ""),
    ],
    ids=["in a library", "in Python", "a closed terminal", "after staying"],
)
def test_it_ends_at_once(body: str, number: signal.Signals, code: int, said: str) -> None:
    with subprocess.Popen([sys.executable, "-c", BEGIN + body], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)  # it is in there
        process.send_signal(number)
        assert process.wait(GRACE + 20) == code
        assert process.stdout.read() == said
