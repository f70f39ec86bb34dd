"""Exit immediately on a signal, while there is nothing to save."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType

__all__ = ["END_SIGNALS", "GRACE", "exit_on_signals", "is_left_ignored", "stop_exiting_on_signals"]

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
"""The signals that end a process unless it handles them: from a user or a system, a closed terminal, a limit."""

GRACE = 2.0
"""Seconds for a process to unwind before it is ended."""

_codes: dict[int, int] = {}
"""The signals that currently end this process, with their exit codes."""

_wakeup_socket: socket.socket | None = None


def is_left_ignored(number: int) -> bool:
    """Return whether a signal stays ignored: `nohup` ignores SIGHUP, and a shell ignores SIGINT for background jobs.

    SIGTERM and SIGUSR1 do not stay ignored: a batch script ignores them for itself, and its ranks handle them.
    """
    return number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN


def exit_on_signals(signals: Iterable[signal.Signals], code: int) -> None:
    """End this process with `code` on any of the signals, until `stop_exiting_on_signals` is called.

    Python runs a signal handler only between two of its instructions, not while a library waits for another rank,
    possibly forever. So a thread ends a process that has not unwound after `GRACE` seconds.
    """
    global _wakeup_socket
    if _wakeup_socket is None:
        _wakeup_socket, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_wakeup_socket,), name="exit-on-signals", daemon=True).start()
    for number in signals:
        if not is_left_ignored(number):
            _codes[number] = code
            signal.signal(number, _unwind)


def stop_exiting_on_signals() -> None:
    """Stop handling the signals, because from now on there is something to save."""
    _codes.clear()


def _unwind(number: int, frame: FrameType | None) -> None:
    if number in _codes:
        sys.exit(_codes[number])


def _watch(wakeup: socket.socket) -> None:
    while number := wakeup.recv(1):
        if number[0] in _codes:
            time.sleep(GRACE)
            if number[0] in _codes:
                os._exit(_codes[number[0]])
