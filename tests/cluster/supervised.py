"""Run a program until standard input closes, then end it and all its child processes: `supervised.py COMMAND...`.

The pipe to standard input closes when the process that holds its other end closes it or dies in any way. A worker of
pytest-xdist outlives its controller in the middle of a test, so the death of the controller ends the program, too. A
session of its own keeps the program from the signals of a terminal, and processes that become orphans become this
one's children.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # of <sys/prctl.h>
GRACE = 10.0
"""Seconds for the program to end after SIGTERM."""


@contextlib.contextmanager
def supervised(*command: str) -> Iterator[None]:
    """Run a program during the body of the `with`, without its output."""
    words = [sys.executable, "-IS", __file__, *command]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.communicate()


def main() -> None:
    """Run the command until standard input closes or it ends."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    worker = os.getppid()
    controller = _parent(worker)
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while program.poll() is None and not select.select([0], [], [], 0.5)[0]:
        if "PYTEST_XDIST_WORKER" in os.environ and _parent(worker) != controller:
            break
    program.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE)
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _children() -> list[int]:
    """The children of this process; it adopts the children of a killed child."""
    numbers = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [number for number in numbers if _parent(number) == os.getpid()]


def _parent(process: int) -> int | None:
    """The parent of a process; None if it has ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


if __name__ == "__main__":
    main()
