"""Ports of this host."""

import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a port of this host that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
