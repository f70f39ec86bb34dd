"""A private Slurm: munge, slurmctld and two slurmd on this host, in one folder, on separate ports.

As a program it runs a command with that Slurm, and then stops everything:

    python -m tests.cluster.slurm sinfo
"""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.supervised import supervised

__all__ = ["GPUS", "NODES", "PROGRAMS", "Slurm", "obstacle", "start_slurm"]

NODES = ("n1", "n2")
# Files that replace the GPUs of a node: their number is that of its ranks.
DEVICES = ("/dev/null", "/dev/zero")
GPUS = len(DEVICES)
PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
STARTED_WITHIN = 60.0  # seconds; idle machines need two
POLL_INTERVAL = 1.0  # seconds between two queries of Slurm: each starts a program

CONFIG = """\
ClusterName=dsprune
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
# The port of a job follows from its number, and clusters of other tests run beside this one.
FirstJobId={controller_port}
# A requeued job waits for its credential to expire.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
GresTypes=gpu
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=3600
{nodes}
PartitionName=short Nodes=n1,n2 Default=YES MaxTime=01:00:00 State=UP
PartitionName=half Nodes=n1 MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm.

    Attributes:
        folder: its configuration, state and logs.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment with which Slurm's commands use this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str | Path, **extra: str) -> str:
        """The output of a command, which must succeed."""
        environment = os.environ | self.environment | extra
        done = subprocess.run(
            [*map(str, command)], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """A field of a job from `scontrol show job`."""
        words = self.call("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait(self, job: str, seconds: float) -> str:
        """Wait for the end of a job, and return its state; a requeued job has not ended."""
        deadline = time.monotonic() + seconds
        while (state := self.field(job, "JobState")) in UNFINISHED:
            assert time.monotonic() < deadline, f"job {job} is still {state}"
            time.sleep(POLL_INTERVAL)
        return state

    def wait_for_attempt(self, job: str, number: int, seconds: float) -> None:
        """Return when a job has been requeued `number - 1` times."""
        deadline = time.monotonic() + seconds
        while int(self.field(job, "Restarts")) < number - 1:
            self._check_unfinished(job, deadline)
            time.sleep(POLL_INTERVAL)

    def wait_for(self, happened: Callable[[], bool], job: str, seconds: float) -> None:
        """Wait for an event of a job, which must not end before."""
        deadline = time.monotonic() + seconds
        for number in itertools.count(1):
            if happened():
                return
            if number % 20 == 0:
                self._check_unfinished(job, deadline)
            time.sleep(POLL_INTERVAL / 20)

    def _check_unfinished(self, job: str, deadline: float) -> None:
        state = self.field(job, "JobState")
        assert time.monotonic() < deadline, f"job {job} is still {state}"
        assert state in UNFINISHED, Path(self.field(job, "StdOut")).read_text()


def obstacle() -> str | None:
    """Return why Slurm cannot run on this machine, or None."""
    return None if os.geteuid() == 0 else "slurmctld, slurmd and munge are started by root"


@contextlib.contextmanager
def start_slurm() -> Iterator[Slurm]:
    """Start everything; at the end cancel all jobs and stop it. The host's own Slurm is never used."""
    with tempfile.TemporaryDirectory(prefix="dsprune-slurm-") as name, contextlib.ExitStack() as stack:
        slurm = Slurm(Path(name))
        _configure(slurm.folder)
        stack.enter_context(supervised("munged", *_munge_options(slurm.folder / "munge")))
        _await(slurm, (slurm.folder / "munge" / "socket").exists, "munge")
        config = ("-D", "-f", slurm.environment["SLURM_CONF"])
        stack.enter_context(supervised("slurmctld", *config, "-c"))
        for node in NODES:
            stack.enter_context(supervised("slurmd", *config, "-N", node))
        _await(slurm, lambda: _num_idle(slurm) == len(NODES), "the nodes")
        stack.callback(_cancel_all, slurm)
        yield slurm


def _configure(folder: Path) -> None:
    controller_port, *node_ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=16 "
        f"RealMemory=1000 Gres=gpu:{GPUS} State=UNKNOWN"
        for name, port in zip(NODES, node_ports, strict=True)
    )
    text = CONFIG.format(folder=folder, controller_port=controller_port, nodes=nodes)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in DEVICES))
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    munge = folder / "munge"
    munge.mkdir(mode=0o755)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)


def _munge_options(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    # --force: a folder in /tmp is writable for others, which munge otherwise refuses.
    return ["--foreground", "--force", *(f"--{option}={folder / file}" for option, file in files.items())]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _num_idle(slurm: Slurm) -> int:
    command = ["sinfo", "--noheader", "--partition=short", "--states=idle", "--format=%D"]
    environment = os.environ | slurm.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else 0


def _await(slurm: Slurm, ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STARTED_WITHIN
    while not ready():
        logs = "\n".join(log.read_text()[-2000:] for log in slurm.folder.rglob("*log"))
        assert time.monotonic() < deadline, f"{what}: not up after {STARTED_WITHIN} s\n{logs}"
        time.sleep(0.1)


def _cancel_all(slurm: Slurm) -> None:
    """Cancel every job, and wait for their processes, which slurmd does not end."""
    slurm.call("scancel", "--user", str(os.geteuid()))
    deadline = time.monotonic() + 20
    while slurm.call("squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)


def main() -> int:
    """Run a command with a private Slurm."""
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 2
    with start_slurm() as slurm:
        return subprocess.run(sys.argv[1:], env=os.environ | slurm.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
