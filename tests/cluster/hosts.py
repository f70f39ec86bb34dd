"""Two hosts on one machine: network namespaces joined by a cable, each with its own address and host name."""

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "Host", "obstacle", "probe", "two_hosts", "write_remote_shell"]

PROGRAMS = {"ip": "iproute2", "pdsh": "pdsh"}
NETWORK = "10.213.77"
CONFIGURATION = Path("/etc/netns")  # `ip netns exec` mounts these files over /etc


@dataclass(frozen=True)
class Host:
    """A host in its own network.

    Attributes:
        name: its host name, and the name of its namespace.
        address: its address.
    """

    name: str
    address: str

    def command(self, *command: str | Path) -> list[str]:
        """The prefix that runs a command on the host: in its network, and with its host name."""
        enter = ["ip", "netns", "exec", self.name, "unshare", "--uts", "bash", "-c"]
        return [*enter, f'hostname {self.name}; exec "$@"', self.name, *map(str, command)]

    def cut_off(self) -> None:
        """Disconnect the host."""
        _ip("-n", self.name, "link", "set", "cable", "down")


def obstacle() -> str | None:
    """Return why the hosts cannot exist on this machine, or None."""
    return None if os.geteuid() == 0 else "network namespaces are made by root"


def probe() -> str | None:
    """Return why the installed programs do not work here, or None."""
    probe = f"dsprune-{uuid.uuid4().hex[:8]}"
    for command in (["pdsh", "-V"], ["ip", "netns", "add", probe], ["ip", "netns", "delete", probe]):
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{' '.join(command)}: {getattr(error, 'stderr', None) or error}"
    return None


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts that reach only each other, and remove them at the end."""
    mark = uuid.uuid4().hex[:6]
    first, second = (Host(f"{name}-{mark}", f"{NETWORK}.{number}") for number, name in enumerate("ab", 1))
    names = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in (first, second))
    with contextlib.ExitStack() as stack:
        for host in (first, second):
            stack.enter_context(_namespace(host, names))
        _ip(
            "link",
            "add",
            "cable",
            "netns",
            first.name,
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            second.name,
        )
        for host in (first, second):
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield first, second


@contextlib.contextmanager
def _namespace(host: Host, names: str) -> Iterator[None]:
    _ip("netns", "add", host.name)
    files = CONFIGURATION / host.name
    files.mkdir(parents=True)
    (files / "hosts").write_text(names)
    try:
        yield
    finally:
        left = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=False)
        subprocess.run(["kill", "-KILL", *left.stdout.split()], capture_output=True, check=False)
        _ip("netns", "delete", host.name)
        shutil.rmtree(files)
        with contextlib.suppress(OSError):  # other tests may have files there
            CONFIGURATION.rmdir()


def write_remote_shell(folder: Path) -> Path:
    """Write an `ssh` for a PATH that enters a host's namespace, with the minimal environment of a login.

    It is called by pdsh, as `ssh [OPTION]... HOST COMMAND...`.
    """
    folder.mkdir()
    path = folder / "ssh"
    bare = (
        f"env -i HOME={os.environ.get('HOME', '/')} PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    path.write_text(
        "#!/usr/bin/env bash\n"
        "while [[ $1 == -* ]]; do if [[ $1 == -[olpF] ]]; then shift; fi; shift; done\n"
        "host=$1; shift\n"
        f'exec ip netns exec "$host" unshare --uts {bare} bash -c "hostname $host; $*"\n'
    )
    path.chmod(0o755)
    return folder


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
