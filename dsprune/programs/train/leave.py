"""Leaving on a signal, at once, until there is something to save."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType

__all__ = ["leave_on", "stay"]

GRACE = 2.0
"""Seconds in which a process may unwind."""

_codes: dict[int, int] = {}
"""The exit code of each signal that ends this process now."""

_wakened: socket.socket | None = None


def leave_on(signals: Iterable[signal.Signals], code: int) -> None:
    """End this process with `code` when one of the signals comes, until `stay`.

    A handler of Python's runs between two of its instructions, so not while a library waits for another rank,
    which may never come: who has not unwound after a moment is ended by a thread.
    """
    global _wakened
    if _wakened is None:
        _wakened, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_wakened,), name="leave", daemon=True).start()
    for number in signals:
        _codes[number] = code
        signal.signal(number, _unwind)


def stay() -> None:
    """There is something to save now: others handle the signals."""
    _codes.clear()


def _unwind(number: int, frame: FrameType | None) -> None:
    if number in _codes:
        sys.exit(_codes[number])


def _watch(wakened: socket.socket) -> None:
    while number := wakened.recv(1):
        if number[0] in _codes:
            time.sleep(GRACE)
            if number[0] in _codes:
                os._exit(_codes[number[0]])
